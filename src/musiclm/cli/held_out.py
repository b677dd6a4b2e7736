"""What the verbs of `musiclm evaluate` share: a model's parts, held-out clips, a report."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from musiclm.audio.waveform import Waveform
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.conditioning.conditioner import Conditioner
from musiclm.core.errors import CheckpointError, DataError
from musiclm.core.files import write_text_whole
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Clip, Corpus, Split
from musiclm.generation.bundle import CONFIG_NAME, BundleConfig, find_bundle, read_bundle_config
from musiclm.semantic.tokenizer import SemanticTokenizer


class ModelParts:
    """A model folder, whole or still in the making: each part is loaded when it is asked for.

    Args:
        source: A model folder or hub id; the bundled model by default.
        device: auto, cpu or cuda.
    """

    def __init__(self, source: str | None, device: str) -> None:
        self.folder = find_bundle(source)
        self.runtime = Runtime.choose(device)
        is_whole = (self.folder / CONFIG_NAME).is_file()
        self.config = read_bundle_config(self.folder) if is_whole else BundleConfig(name="")

    def path(self, part: str) -> Path:
        """The weight file of a part.

        Raises:
            CheckpointError: The model does not have it yet.
        """
        path = self.folder / self.config.parts[part]
        if not path.is_file():
            raise CheckpointError(f"{self.folder} lacks {path.name}: train or fetch that part.")
        return path

    @cached_property
    def codec(self) -> SoundStream:
        """The neural codec."""
        return open_codec(self.path("codec"), self.runtime)

    @cached_property
    def semantic(self) -> SemanticTokenizer:
        """The semantic tokenizer."""
        return SemanticTokenizer.load(self.path("semantic")).to(self.runtime.device)

    @cached_property
    def conditioner(self) -> Conditioner:
        """MuLan and its quantizer."""
        return Conditioner.load(self.path("mulan")).to(self.runtime.device)

    def described(self, *parts: str) -> dict[str, Any]:
        """The model's name and the hashes of the parts that were measured."""
        return {
            "model_name": self.config.name or self.folder.name,
            "weights_sha256": {part: sha256_of_file(self.path(part)) for part in parts},
        }


def open_codec(path: Path, runtime: Runtime) -> SoundStream:
    """A codec from its weights, on the runtime's device.

    Raises:
        CheckpointError: The file is missing, damaged, or of another model.
    """
    codec = SoundStream(SoundStreamConfig.from_json(read_config_json(path)))
    load_weights(codec, path)
    return codec.eval().to(runtime.device)


def held_out_split(corpus: Corpus) -> Split:
    """The test split, or validation in a corpus that has no test clips.

    Raises:
        DataError: Both are empty.
    """
    splits: tuple[Split, ...] = ("test", "validation")
    for split in splits:
        if corpus.split(split).clips:
            return split
    raise DataError(
        f"{corpus.folder} has neither test nor validation clips. Prepare a larger corpus."
    )


def spread(clips: tuple[Clip, ...], count: int) -> list[Clip]:
    """At most `count` clips, spread evenly.

    Raises:
        DataError: The count is below 1.
    """
    if count < 1:
        raise DataError(f"{count} clips cannot be measured; ask for at least 1.")
    count = min(count, len(clips))
    return [clips[index * len(clips) // count] for index in range(count)]


def middle(corpus: Corpus, clip: Clip, *, seconds: float, sample_rate_hz: int) -> Waveform:
    """The middle of a clip, or all of a shorter one."""
    return corpus.audio(
        clip,
        sample_rate_hz=sample_rate_hz,
        start_seconds=max(clip.duration_seconds - seconds, 0.0) / 2,
        duration_seconds=seconds,
    )


def write_report(path: Path, measured: str, figures: Mapping[str, Any]) -> None:
    """Writes the figures as JSON, whole or not at all."""
    document = {"format_version": 1, "measured": measured, **figures}
    write_text_whole(path, json.dumps(document, indent=2) + "\n")
