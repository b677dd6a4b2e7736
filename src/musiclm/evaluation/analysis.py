"""What the judges make of a row of clips, kept on disk so that nothing is heard twice.

A row is one list of clips, one for each caption of a plan, in its order: a system's generations,
the real audio, or the real audio after a treatment. Its analysis holds all that the scores need.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.files import written_whole
from musiclm.evaluation.adherence import Heard, hear
from musiclm.evaluation.embedders import Embedder
from musiclm.evaluation.fad import content_hash
from musiclm.evaluation.musicnn import MusicNNOutput
from musiclm.evaluation.rhythm import Rhythm
from musiclm.evaluation.tonality import Key

Treatment = Callable[[Waveform], Waveform]
ProgressReport = Callable[[str, int, int], None]
TAGGER = "musicnn"
_FORMAT = "musiclm-analysis-1"
_LEAST_SECONDS_HEARD = 3.0


@runtime_checkable
class Tagger(Protocol):
    """What judges audio: MusicNN, or a small stand-in."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in the order of its outputs."""
        ...

    def analyse(self, waveform: Waveform) -> MusicNNOutput:
        """Tags and embeddings of a clip's windows."""
        ...


@runtime_checkable
class TextAudioModel(Protocol):
    """A joint space of text and audio, such as MuLan."""

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        ...

    def embed_text(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """Embeddings of texts."""
        ...

    def embed_audio(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of clips."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """What gives class logits for KLD, such as AST with AudioSet's 527 classes."""

    @property
    def name(self) -> str:
        """As in reports."""
        ...

    def class_logits(self, waveform: Waveform) -> Float[Tensor, " classes"]:
        """Logits of a clip."""
        ...


@dataclass(frozen=True)
class Judges:
    """The models that score, and the treatments of real audio that are scored for comparison.

    Attributes:
        tagger: MusicNN: tags, and the embedding that FAD always uses.
        text_audio: Joint spaces by name: `conditioning`, and independent ones.
        embedders: Further embeddings for FAD.
        classifier: Whose classes KLD compares; the tagger's by default.
        treatments: By name of their row.
        identity: A hash of all the weights, for the cache; without it nothing is cached.
    """

    tagger: Tagger
    text_audio: Mapping[str, TextAudioModel] = field(default_factory=dict[str, TextAudioModel])
    embedders: tuple[Embedder, ...] = ()
    classifier: Classifier | None = None
    treatments: Mapping[str, Treatment] = field(default_factory=dict[str, Treatment])
    identity: str = ""


@dataclass(frozen=True)
class Analysis:
    """What the judges heard in a row.

    Attributes:
        embeddings: By embedder, the windows of all clips together.
        class_logits: For KLD.
        tag_probabilities: Of the tagger, for instruments.
        joint: By joint space, one vector a clip.
        heard: Rhythm and key; empty when the clips are shorter than three seconds.
    """

    embeddings: Mapping[str, Float[np.ndarray, "windows dim"]]
    class_logits: Float[np.ndarray, "clips classes"]
    tag_probabilities: Float[np.ndarray, "clips tags"]
    joint: Mapping[str, Float[Tensor, "clips joint_dim"]]
    heard: tuple[Heard, ...]


class AnalysisCache:
    """Analyses on disk, named by a hash of the audio, the judges and the treatment.

    Args:
        folder: Where the files go; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def analyse(
        self,
        row: str,
        read: Callable[[], Iterable[Waveform]],
        num_clips: int,
        judges: Judges,
        *,
        treatment: Treatment | None = None,
        on_progress: ProgressReport | None = None,
    ) -> Analysis:
        """What the judges hear in a row, or heard in an earlier run.

        Args:
            row: Its name; a treatment's row is kept under it.
            read: Gives the clips, lazily, each time it is called.
            num_clips: How many there must be.
            judges: The models.
            treatment: Done to each clip first.
            on_progress: Told the row, the clips done and the clips in all.

        Raises:
            DataError: There are more or fewer clips.
            AudioError: A clip is unreadable or too short to judge.
        """
        path: Path | None = None
        if self._folder is not None and judges.identity:
            name = f"{judges.identity}/{sorted(judges.text_audio)}/{row if treatment else ''}"
            key = hashlib.sha256(name.encode()).hexdigest()
            path = self._folder / f"{content_hash(read(), key)}.safetensors"
            kept = _read(path)
            if kept is not None:
                return kept
        clips = read() if treatment is None else map(treatment, read())
        result = analyse_clips(row, clips, num_clips, judges, on_progress)
        if path is not None:
            _write(path, result)
        return result


@torch.no_grad()
def analyse_clips(
    row: str,
    clips: Iterable[Waveform],
    num_clips: int,
    judges: Judges,
    on_progress: ProgressReport | None = None,
) -> Analysis:
    """Lets every judge hear every clip.

    Raises:
        DataError: There are more or fewer clips than said.
        AudioError: A clip is unreadable or too short to judge.
    """
    outputs: list[MusicNNOutput] = []
    logits: list[Tensor] = []
    joint: dict[str, list[Tensor]] = {name: [] for name in judges.text_audio}
    rows: dict[str, list[Tensor]] = {embedder.name: [] for embedder in judges.embedders}
    heard: list[Heard] = []
    for clip in clips:
        output = judges.tagger.analyse(clip)
        outputs.append(output)
        logits.append(
            judges.classifier.class_logits(clip) if judges.classifier else output.clip_tag_logits
        )
        for name, model in judges.text_audio.items():
            samples = clip.resampled(model.sample_rate_hz).samples
            joint[name].append(model.embed_audio(samples.unsqueeze(0))[0].float().cpu())
        for embedder in judges.embedders:
            rows[embedder.name].append(embedder.embed(clip))
        if clip.duration_seconds >= _LEAST_SECONDS_HEARD:
            heard.append(hear(clip))
        if on_progress is not None:
            on_progress(row, len(outputs), num_clips)
    if len(outputs) != num_clips:
        raise DataError(f"Row {row!r} has {len(outputs)} clips; the plan has {num_clips}.")
    rows = {TAGGER: [output.embeddings for output in outputs], **rows}
    return Analysis(
        {name: torch.cat(parts).numpy() for name, parts in rows.items()},
        torch.stack(logits).numpy(),
        torch.stack([output.clip_tag_probabilities for output in outputs]).numpy(),
        {name: torch.stack(parts) for name, parts in joint.items()},
        tuple(heard) if len(heard) == num_clips else (),
    )


def _write(path: Path, analysis: Analysis) -> None:
    tensors = {f"embeddings/{name}": torch.tensor(a) for name, a in analysis.embeddings.items()}
    tensors |= {f"joint/{name}": value.contiguous() for name, value in analysis.joint.items()}
    tensors["class_logits"] = torch.tensor(analysis.class_logits)
    tensors["tag_probabilities"] = torch.tensor(analysis.tag_probabilities)
    heard = [
        [
            clip.rhythm.tempo_bpm,
            clip.rhythm.ternary,
            clip.rhythm.clarity,
            None if clip.key is None else [clip.key.tonic, clip.key.mode],
        ]
        for clip in analysis.heard
    ]
    metadata = {"format": _FORMAT, "heard": json.dumps(heard)}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _read(path: Path) -> Analysis | None:
    """What was kept; None if there is nothing, or a file that is broken or of another version."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None

    def below(folder: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(folder): value
            for name, value in tensors.items()
            if name.startswith(folder)
        }

    heard = tuple(
        Heard(Rhythm(tempo, ternary, clarity), Key(*key) if key else None)
        for tempo, ternary, clarity, key in json.loads(metadata["heard"])
    )
    return Analysis(
        {name: value.numpy() for name, value in below("embeddings/").items()},
        tensors["class_logits"].numpy(),
        tensors["tag_probabilities"].numpy(),
        below("joint/"),
        heard,
    )
