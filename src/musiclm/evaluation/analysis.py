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
from musiclm.core.side_by_side import side_by_side
from musiclm.evaluation.adherence import Heard, hear
from musiclm.evaluation.embedders import Embedder
from musiclm.evaluation.fad import content_hash
from musiclm.evaluation.musicnn import MusicNNOutput
from musiclm.evaluation.rhythm import Rhythm
from musiclm.evaluation.tonality import Key

Treatment = Callable[[Waveform], Waveform]
ProgressReport = Callable[[str, int, int], None]
TAGGER = "musicnn"
_FORMAT = "musiclm-analysis-2"
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
        joint_of: Embedder by joint space: the space's vector of a clip is the mean of what that
            embedder makes of its windows, brought to unit length, and is not computed again.
        num_threads: Clips heard side by side, each on one thread.
        identity: A hash of all the weights, for the cache; without it nothing is cached.
    """

    tagger: Tagger
    text_audio: Mapping[str, TextAudioModel] = field(default_factory=dict[str, TextAudioModel])
    embedders: tuple[Embedder, ...] = ()
    classifier: Classifier | None = None
    treatments: Mapping[str, Treatment] = field(default_factory=dict[str, Treatment])
    joint_of: Mapping[str, str] = field(default_factory=dict[str, str])
    num_threads: int = 1
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


@dataclass(frozen=True)
class _ClipAnalysis:
    """What the judges heard in one clip."""

    output: MusicNNOutput
    class_logits: Float[Tensor, " classes"]
    joint: Mapping[str, Tensor]
    windows: Mapping[str, Tensor]
    heard: Heard | None


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
        result = analyse_clips(
            row, read(), num_clips, judges, treatment=treatment, on_progress=on_progress
        )
        if path is not None:
            _write(path, result)
        return result


def analyse_clips(
    row: str,
    clips: Iterable[Waveform],
    num_clips: int,
    judges: Judges,
    *,
    treatment: Treatment | None = None,
    on_progress: ProgressReport | None = None,
) -> Analysis:
    """Lets every judge hear every clip, `judges.num_threads` clips at once.

    Raises:
        DataError: There are more or fewer clips than said.
        AudioError: A clip is unreadable or too short to judge.
    """

    def say(num_done: int) -> None:
        if on_progress is not None:
            on_progress(row, num_done, num_clips)

    made = side_by_side(
        lambda clip: _analyse_clip(clip, judges, treatment),
        clips,
        num_threads=judges.num_threads,
        on_done=say,
    )
    if len(made) != num_clips:
        raise DataError(f"Row {row!r} has {len(made)} clips; the plan has {num_clips}.")
    heard = [clip.heard for clip in made if clip.heard is not None]
    return Analysis(
        {
            TAGGER: torch.cat([clip.output.embeddings for clip in made]).numpy(),
            **{
                embedder.name: torch.cat([clip.windows[embedder.name] for clip in made]).numpy()
                for embedder in judges.embedders
            },
        },
        torch.stack([clip.class_logits for clip in made]).numpy(),
        torch.stack([clip.output.clip_tag_probabilities for clip in made]).numpy(),
        {name: torch.stack([clip.joint[name] for clip in made]) for name in judges.text_audio},
        tuple(heard) if len(heard) == num_clips else (),
    )


@torch.no_grad()
def _analyse_clip(clip: Waveform, judges: Judges, treatment: Treatment | None) -> _ClipAnalysis:
    if treatment is not None:
        clip = treatment(clip)
    output = judges.tagger.analyse(clip)
    windows = {embedder.name: embedder.embed(clip) for embedder in judges.embedders}
    joint: dict[str, Tensor] = {}
    for name, model in judges.text_audio.items():
        if name in judges.joint_of:
            mean = windows[judges.joint_of[name]].mean(dim=0)
            joint[name] = torch.nn.functional.normalize(mean, dim=0)
        else:
            samples = clip.resampled(model.sample_rate_hz).samples
            joint[name] = model.embed_audio(samples.unsqueeze(0))[0].float().cpu()
    return _ClipAnalysis(
        output,
        judges.classifier.class_logits(clip) if judges.classifier else output.clip_tag_logits,
        joint,
        windows,
        hear(clip) if clip.duration_seconds >= _LEAST_SECONDS_HEARD else None,
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
    # Files keep tensors by name; a report that is made again has its rows in the same order.
    metadata = {"format": _FORMAT, "heard": json.dumps(heard), "names": json.dumps(list(tensors))}
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
            tensors = {name: file.get_tensor(name) for name in json.loads(metadata["names"])}
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
