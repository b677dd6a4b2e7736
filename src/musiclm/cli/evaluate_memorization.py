"""`musiclm evaluate memorization`: how often training music is continued as it went on."""

from dataclasses import asdict
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from musiclm.cli.held_out import ModelParts, write_report
from musiclm.core.errors import DataError
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.data.manifest import Split
from musiclm.data.token_source import TokenCropConfig, TokenCropSource
from musiclm.data.token_store import read_header, read_split
from musiclm.evaluation.curves import memorization_picture, write_figure
from musiclm.evaluation.memorization import (
    Examples,
    MemorizationConfig,
    MemorizationReport,
    measure_memorization,
    usable_prompts,
)
from musiclm.stages.language_model import StageConfig, StageModel


def evaluate_memorization(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    tokens: Path,
    report: Path = Path("evaluation-memorization.json"),
    num_examples: int = 200,
    temperature: float = 0.0,
    batch: int = 16,
    device: str = "auto",
) -> None:
    """Prompt the semantic stage with training music and compare what it goes on with.

    Writes a report and, beside it, the curves as a .png.

    Args:
        source: A model folder or hub id; mulan, semantic and semantic_stage are needed.
        tokens: The token store the stage was trained on.
        report: The .json file to write.
        num_examples: Clips of each split; 101 or more are needed for the threshold.
        temperature: Of the continuations; 0 always takes the likeliest token, as the paper does.
        batch: Continuations generated at once.
        device: auto, cpu or cuda.
    """
    if num_examples < 2 or batch < 1 or temperature < 0:
        raise DataError(
            f"{num_examples} examples, {batch} at once, temperature {temperature:g}; at least 2, 1 "
            "and 0 are needed."
        )
    parts = ModelParts(source, device)
    config = MemorizationConfig(batch_size=batch, temperature=temperature)
    found = memorization_of(parts, tokens, num_examples, config)
    document = {
        **parts.described("mulan", "semantic", "semantic_stage"),
        "tokens": str(tokens),
        "config": config.model_dump(),
        **asdict(found),
    }
    write_report(report, "memorization", document)
    write_figure(memorization_picture(found), report.with_suffix(".png"))
    Console().print(memorization_table(found))


def memorization_of(
    parts: ModelParts, tokens: Path, num_examples: int, config: MemorizationConfig
) -> MemorizationReport:
    """The curves of a model on the training clips of a token store, and on held-out ones.

    Raises:
        DataError: The store is of other tokenizers, or too small.
    """
    made_by = read_header(tokens).weight_hashes
    for part in ("semantic", "mulan"):
        if made_by.get(part, "") not in ("", sha256_of_file(parts.path(part))):
            raise DataError(
                f"{tokens} holds tokens of another {part} model than that of {parts.folder}. "
                "Tokenize the corpus with this one."
            )
    path = parts.path("semantic_stage")
    model = StageModel(StageConfig.from_json(read_config_json(path)))
    load_weights(model, path)
    model = model.to(parts.runtime.device).prepare_for_decoding()
    longest = max(usable_prompts(model, config)) + config.continuation_frames
    seconds = longest / model.layout.target.spec.frame_rate_hz
    splits: tuple[tuple[str, Split], ...] = (("training", "train"), ("held out", "validation"))
    found = {
        name: store_examples(parts, tokens, split, num_examples, seconds) for name, split in splits
    }
    sets = {name: examples for name, examples in found.items() if examples is not None}
    return measure_memorization(model, sets, parts.semantic.get_buffer("centroids").cpu(), config)


def store_examples(
    parts: ModelParts, tokens: Path, split: Split, count: int, seconds: float
) -> Examples | None:
    """At most `count` crops of a split, one a clip, with their conditioning and their tunes."""
    crops = TokenCropConfig(crop_seconds=seconds, batch_size=max(count, 1))
    batches = TokenCropSource(tokens, crops, seed=0).fixed_batches(split, count)
    if not batches:
        return None
    (batch,) = batches
    stored = read_split(tokens, split)
    tune_of = {
        clip_id: labels.melody_cluster or clip_id
        for clip_id, labels in zip(stored.clip_ids, stored.labels, strict=True)
    }
    device = parts.runtime.device
    conditioning = parts.conditioner.tokenizer.tokenize(batch["embedding"].to(device))
    return Examples(
        conditioning,
        batch["semantic"].to(device),
        tuple(tune_of[clip_id] for clip_id in batch["clip_ids"]),
    )


def memorization_table(found: MemorizationReport) -> Table:
    """The curves, a line a point."""
    rate = found.threshold.false_positive_rate
    table = Table(
        "examples",
        "tokens given",
        "exact",
        "approximate [95 %]",
        "cost",
        "bits",
        "bits of matches",
        "bits of the truth",
        title=f"matches below cost {found.threshold.cost:.3g} ({rate:.1e} of "
        f"{found.threshold.num_negatives} wrong pairs)",
    )
    for name, points in found.curves.items():
        for point in points:
            share = point.approximate
            table.add_row(
                f"{name} ({found.num_examples[name]})",
                str(point.prompt_frames),
                f"{point.exact.mean:.1%}",
                f"{share.mean:.1%} [{share.low:.1%}, {share.high:.1%}]",
                f"{point.mean_cost:.3g}",
                f"{point.entropy_bits:.2f}",
                "-" if point.match_entropy_bits is None else f"{point.match_entropy_bits:.2f}",
                f"{point.truth_entropy_bits:.2f}",
            )
    return table
