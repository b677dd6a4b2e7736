"""The suite: everything the model card says about generated clips, measured in one pass.

Metrics, all on clips of one length from one plan (`plan.py`):

- *FAD* over MusicNN's embeddings against the reference side: of the generations, of the real audio
  of the asked captions (the floor), and of any treatment of that audio (codec, noise).
- *KLD* of MusicNN's tags between each generation and the real audio of its caption; beside it the
  KLD between real clips that belong to different captions.
- *Caption similarity*: cosine of text and audio in the joint space (MusicLM's MCC, Section 4.4);
  of the right caption minus the mean of all the others, with a bootstrap interval over clips.
  The space that conditions the model favours it, as the paper concedes.
- *Instrument agreement* (`attributes.py`), of the generations and of the real audio.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Corpus
from musiclm.evaluation.attributes import (
    InstrumentAgreement,
    instrument_agreement,
    instrument_of_lead,
)
from musiclm.evaluation.distances import (
    Interval,
    bootstrap_mean,
    frechet_audio_distance,
    kl_divergences,
)
from musiclm.evaluation.musicnn import MusicNNOutput
from musiclm.evaluation.plan import EvaluationPlan, ReferenceClip

Treatment = Callable[[Waveform], Waveform]
ProgressReport = Callable[[str, int, int], None]
GENERATED = "generated"
FLOOR = "other real pieces"


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


@dataclass(frozen=True)
class Judges:
    """The models that score, and the treatments of real audio that are scored for comparison."""

    tagger: Tagger
    text_audio: TextAudioModel | None = None
    treatments: Mapping[str, Treatment] = field(default_factory=dict[str, Treatment])


@dataclass(frozen=True)
class CaptionSimilarity:
    """Cosine between captions and clips in the joint space."""

    right: float
    shuffled: float
    difference: Interval


@dataclass(frozen=True)
class GenerationReport:
    """The figures of one evaluation; mappings are by row: generated, real audio, treatments.

    `fad` is empty with too few windows for a covariance: 67 clips of 10 s are enough for MusicNN.
    `instruments` is empty when no asked lead has a tag, as in a corpus without labels.
    """

    num_clips: int
    clip_seconds: float
    seed: int
    num_windows: int
    fad: Mapping[str, float]
    kld: Mapping[str, float]
    instruments: Mapping[str, InstrumentAgreement]
    similarity: Mapping[str, CaptionSimilarity]


@dataclass(frozen=True)
class _Analysis:
    """What the judges made of a row of clips."""

    embeddings: Float[np.ndarray, "windows dim"]
    tag_logits: Float[np.ndarray, "clips tags"]
    tag_probabilities: Float[np.ndarray, "clips tags"]
    joint: Float[Tensor, "clips joint_dim"] | None

    @property
    def has_covariance(self) -> bool:
        """Whether there are enough windows for FAD."""
        return self.embeddings.shape[0] > self.embeddings.shape[1]


def evaluate_generations(
    plan: EvaluationPlan,
    corpus: Corpus,
    generated: Iterable[Waveform],
    judges: Judges,
    *,
    on_progress: ProgressReport | None = None,
) -> GenerationReport:
    """Scores generations against a plan.

    Args:
        plan: What was asked, and what is compared with.
        corpus: The corpus the plan was made from.
        generated: One clip for each of `plan.asked`, in order; read lazily, any sample rate.
        judges: The scoring models.
        on_progress: Told the row, the clips done and the clips in all.

    Raises:
        DataError: The clips are not as many as planned, or the corpus is another one.
        AudioError: A clip is unreadable or too short to judge.
    """

    def analyse(row: str, clips: Iterable[Waveform]) -> _Analysis:
        return _analyse(row, clips, len(plan.asked), judges, on_progress)

    asked_audio = _real_audio(corpus, plan.asked, plan.clip_seconds)
    rows = {
        GENERATED: analyse(GENERATED, generated),
        FLOOR: analyse(FLOOR, asked_audio()),
    }
    reference = analyse("reference", _real_audio(corpus, plan.reference, plan.clip_seconds)())
    fad: dict[str, float] = {}
    if reference.has_covariance and all(row.has_covariance for row in rows.values()):
        treated = {
            name: analyse(name, map(treatment, asked_audio()))
            for name, treatment in judges.treatments.items()
        }
        fad = {
            name: frechet_audio_distance(row.embeddings, reference.embeddings)
            for name, row in {**rows, **treated}.items()
        }
    leads = [clip.lead for clip in plan.asked]
    return GenerationReport(
        num_clips=len(plan.asked),
        clip_seconds=plan.clip_seconds,
        seed=plan.seed,
        num_windows=rows[GENERATED].embeddings.shape[0],
        fad=fad,
        kld=_klds(rows[GENERATED].tag_logits, rows[FLOOR].tag_logits),
        instruments={
            name: instrument_agreement(leads, row.tag_probabilities, judges.tagger.tags)
            for name, row in rows.items()
            if any(instrument_of_lead(lead) for lead in leads)
        },
        similarity=_similarities(plan, rows, judges.text_audio),
    )


def caption_similarity(
    text: Float[Tensor, "clips dim"],
    audio: Float[Tensor, "clips dim"],
    captions: list[str],
    generator: np.random.Generator,
) -> CaptionSimilarity:
    """Right minus shuffled captions; the mean over all other captions is every shuffle at once.

    Raises:
        DataError: All captions are the same.
    """
    text = torch.nn.functional.normalize(text.double(), dim=1)
    audio = torch.nn.functional.normalize(audio.double(), dim=1)
    cosines = (audio @ text.T).numpy()
    is_other = np.array([[one != other for other in captions] for one in captions])
    if not is_other.any(axis=1).all():
        raise DataError("All captions are the same; give clips with different captions.")
    shuffled = (cosines * is_other).sum(axis=1) / is_other.sum(axis=1)
    right = cosines.diagonal()
    difference = bootstrap_mean(right - shuffled, generator=generator)
    return CaptionSimilarity(float(right.mean()), float(shuffled.mean()), difference)


def noise_treatment(signal_to_noise_db: float, seed: int) -> Treatment:
    """Adds white noise, the same for every clip, at a level below the clip's own: a yardstick."""

    def add_noise(clip: Waveform) -> Waveform:
        generator = RandomStreams(seed).generator("evaluation noise")
        noise = torch.randn(clip.num_samples, generator=generator)
        gain = clip.samples.square().mean().sqrt() * 10 ** (-signal_to_noise_db / 20)
        return Waveform(clip.samples + gain * noise, clip.sample_rate_hz)

    return add_noise


def _real_audio(
    corpus: Corpus, pieces: Iterable[ReferenceClip], clip_seconds: float
) -> Callable[[], Iterable[Waveform]]:
    """Reads the pieces, lazily, each time it is called."""
    clips = {clip.clip_id: clip for clip in corpus.clips}
    missing = [piece.clip_id for piece in pieces if piece.clip_id not in clips]
    if missing:
        raise DataError(f"{corpus.folder} lacks clip {missing[0]!r} of the plan; use its corpus.")

    def read() -> Iterable[Waveform]:
        for piece in pieces:
            yield corpus.audio(
                clips[piece.clip_id],
                start_seconds=piece.start_seconds,
                duration_seconds=clip_seconds,
            )

    return read


@torch.no_grad()
def _analyse(
    row: str,
    clips: Iterable[Waveform],
    num_clips: int,
    judges: Judges,
    on_progress: ProgressReport | None,
) -> _Analysis:
    outputs: list[MusicNNOutput] = []
    joint: list[Tensor] = []
    for clip in clips:
        outputs.append(judges.tagger.analyse(clip))
        if judges.text_audio is not None:
            samples = clip.resampled(judges.text_audio.sample_rate_hz).samples
            joint.append(judges.text_audio.embed_audio(samples.unsqueeze(0))[0].float().cpu())
        if on_progress is not None:
            on_progress(row, len(outputs), num_clips)
    if len(outputs) != num_clips:
        raise DataError(f"Row {row!r} has {len(outputs)} clips; the plan has {num_clips}.")
    return _Analysis(
        torch.cat([output.embeddings for output in outputs]).numpy(),
        torch.stack([output.clip_tag_logits for output in outputs]).numpy(),
        torch.stack([output.clip_tag_probabilities for output in outputs]).numpy(),
        torch.stack(joint) if joint else None,
    )


def _klds(
    generated: Float[np.ndarray, "clips tags"], real: Float[np.ndarray, "clips tags"]
) -> dict[str, float]:
    """Generated against the real audio of its caption, and real audio against its neighbour's."""
    return {
        GENERATED: float(kl_divergences(real, generated).mean()),
        "real, shuffled": float(kl_divergences(real, np.roll(real, 1, axis=0)).mean()),
    }


@torch.no_grad()
def _similarities(
    plan: EvaluationPlan, rows: Mapping[str, _Analysis], text_audio: TextAudioModel | None
) -> dict[str, CaptionSimilarity]:
    if text_audio is None:
        return {}
    captions = [clip.prompt for clip in plan.asked]
    text = text_audio.embed_text(captions).float().cpu()
    return {
        name: caption_similarity(text, row.joint, captions, np.random.default_rng(plan.seed))
        for name, row in rows.items()
        if row.joint is not None
    }
