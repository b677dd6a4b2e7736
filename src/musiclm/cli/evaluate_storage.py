"""`musiclm evaluate storage`: what keeping the weights in fewer bits costs, part by part."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from musiclm.audio.waveform import Waveform
from musiclm.cli.evaluate_stages import STAGES, StageCrops, held_out_codes, open_stage
from musiclm.cli.held_out import (
    ModelParts,
    held_out_split,
    middle,
    open_codec,
    spread,
    write_report,
)
from musiclm.core.errors import CheckpointError, DataError
from musiclm.core.pretrained import sha256_of_file, storage_of
from musiclm.data.manifest import Corpus, Split
from musiclm.evaluation.distances import Interval
from musiclm.evaluation.storage import CodecStorage, StageStorage, compare_codecs, compare_stages
from musiclm.stages.language_model import StageModel

STAGE_PARTS = tuple(f"{name}_stage" for name in STAGES)


@dataclass(frozen=True)
class ExactFiles:
    """Single files, such as `last.safetensors` of a run folder, in place of --against's parts."""

    codec: Path | None = None
    """Weights of the codec."""
    semantic_stage: Path | None = None
    """Of the semantic stage."""
    coarse_stage: Path | None = None
    """Of the coarse stage."""
    fine_stage: Path | None = None
    """Of the fine stage."""


def evaluate_storage(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    against: str | None = None,
    exact: ExactFiles = ExactFiles(),
    tokens: Path | None = None,
    corpus: Path | None = None,
    report: Path = Path("evaluation-storage.json"),
    split: Split = "validation",
    num_crops: int = 128,
    num_clips: int = 50,
    clip_seconds: float = 10.0,
    batch: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Compare a model with the exact weights it was stored from, on the same held-out music.

    Stages are compared with --tokens, the codec with --corpus; parts that the other side lacks are
    left out, and the report names them.

    Args:
        source: The stored model: a folder or hub id; the bundled model by default. Its
            mulan.safetensors conditions both sides.
        against: A model folder or hub id with the exact weights, whole or not.
        exact: Single files of exact weights.
        tokens: The token store that `musiclm tokenize` wrote with the model.
        corpus: The corpus whose test clips are coded (validation if there are none).
        report: The .json file to write.
        split: Of the tokens: validation or test.
        num_crops: Crops of each stage's own length, one a clip.
        num_clips: Clips that the codec is given, spread evenly.
        clip_seconds: The middle of each clip, so long.
        batch: Crops that go through a stage at once.
        seed: Of the intervals.
        device: auto, cpu or cuda.
    """
    if num_crops < 2 or num_clips < 2 or batch < 1:
        raise DataError(
            f"{num_crops} crops, {num_clips} clips, {batch} crops at once; at least 2, 2 and 1 are "
            "needed."
        )
    if tokens is None and corpus is None:
        raise DataError("Give --tokens (to compare stages), --corpus (the codec), or both.")
    parts = ModelParts(source, device)
    asked = (*(STAGE_PARTS if tokens else ()), *(("codec",) if corpus else ()))
    files = _exact_files(against, exact, asked, device)
    stages: dict[str, StageStorage] = {}
    if tokens is not None:
        crops = StageCrops(tokens, split, num_crops, batch)
        for part in STAGE_PARTS:
            if part in files:
                stages[part] = _stage(parts, part, files[part], crops, seed)
    codec: CodecStorage | None = None
    clips_of: Split | None = None
    if corpus is not None and "codec" in files:
        opened = Corpus.open(corpus)
        clips_of = held_out_split(opened)
        chosen = _middles(opened, clips_of, num_clips, clip_seconds)
        other = open_codec(files["codec"], parts.runtime)
        codec = compare_codecs(other, parts.codec, chosen, generator=np.random.default_rng(seed))
    document = {
        "model_name": parts.config.name or parts.folder.name,
        "weights": {part: _file(parts.path(part)) for part in ("mulan", *files)},
        "exact_weights": {part: {"path": str(path), **_file(path)} for part, path in files.items()},
        "not_compared": [part for part in (*STAGE_PARTS, "codec") if part not in files],
        "kl_direction": "KL(exact || stored), nats a token",
        "tokens": None if tokens is None else str(tokens),
        "split": split,
        "corpus": None if corpus is None else str(corpus),
        "corpus_split": clips_of,
        "clip_seconds": clip_seconds,
        "seed": seed,
        "stages": {part: asdict(figures) for part, figures in stages.items()},
        "codec": None if codec is None else asdict(codec),
    }
    write_report(report, "storage", document)
    for table in _tables(stages, codec):
        Console().print(table)


def _exact_files(
    against: str | None, exact: ExactFiles, asked: tuple[str, ...], device: str
) -> dict[str, Path]:
    """The exact weights of the parts asked for, as far as there are any."""
    given: dict[str, Path | None] = asdict(exact)
    folder = None if against is None else ModelParts(against, device)
    files: dict[str, Path] = {}
    for part in asked:
        path = given[part]
        if path is None and folder is not None:
            path = folder.folder / folder.config.parts[part]
            path = path if path.is_file() else None
        if path is not None:
            files[part] = path
    if not files:
        options = ", ".join(f"--exact.{part.replace('_', '-')}" for part in asked)
        raise CheckpointError(
            "There are no exact weights to compare with. Give --against FOLDER with one part at "
            f"least, or a file: {options}."
        )
    return files


def _stage(parts: ModelParts, part: str, path: Path, crops: StageCrops, seed: int) -> StageStorage:
    stored, exact = open_stage(parts, parts.path(part)), open_stage(parts, path)
    assert isinstance(stored.model, StageModel)
    assert isinstance(exact.model, StageModel)
    batches = held_out_codes(stored, crops, parts.runtime.device)
    generator = np.random.default_rng(seed)
    return compare_stages(exact.model, stored.model, batches, generator=generator)


def _middles(corpus: Corpus, split: Split, count: int, seconds: float) -> Iterator[Waveform]:
    chosen = spread(corpus.split(split).clips, count)
    for clip in track(chosen, "coding", console=Console(stderr=True)):
        yield middle(corpus, clip, seconds=seconds, sample_rate_hz=clip.sample_rate_hz)


def _file(path: Path) -> dict[str, Any]:
    return {
        "sha256": sha256_of_file(path),
        "storage": storage_of(path),
        "size_bytes": path.stat().st_size,
    }


def _tables(stages: Mapping[str, StageStorage], codec: CodecStorage | None) -> Iterator[Table]:
    if stages:
        found = list(stages.values())
        table = Table("stage", *(f"{part} ({s.num_crops} crops)" for part, s in stages.items()))
        table.add_row("same top token", *(_shown(s.same_top_token, ".2%") for s in found))
        table.add_row("KL (nats)", *(_shown(s.kl_nats, ".2g") for s in found))
        table.add_row("loss (nats)", *(_shown(s.loss_nats, ".4f") for s in found))
        table.add_row("exact loss (nats)", *(_shown(s.exact_loss_nats, ".4f") for s in found))
        table.add_row("added (nats)", *(_shown(s.loss_added_nats, "+.2g") for s in found))
        yield table
    if codec is not None:
        table = Table("codec", "value [95 %]", title=f"{codec.num_clips} clips")
        table.add_row("same codes", _shown(codec.same_codes, ".2%"))
        table.add_row("SI-SDR, own codes (dB)", _shown(codec.si_sdr_db, ".1f"))
        same = codec.si_sdr_of_the_same_codes_db
        table.add_row("SI-SDR, the same codes (dB)", _shown(same, ".1f"))
        table.add_row("log-mel distance (dB)", _shown(codec.log_mel_db, ".3f"))
        table.add_row("exact log-mel distance (dB)", _shown(codec.exact_log_mel_db, ".3f"))
        table.add_row("added (dB)", _shown(codec.log_mel_added_db, "+.2g"))
        yield table


def _shown(value: Interval, style: str) -> str:
    return f"{value.mean:{style}} [{value.low:{style}}, {value.high:{style}}]"
