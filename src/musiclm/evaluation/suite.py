"""The suite: everything that is said about systems that make music from captions, in one pass.

A report has rows, all of clips of one length from one plan (`plan.py`): one for each system, one
for the real audio of the asked captions (`FLOOR`), one for each treatment of it (codec, noise).

- *FAD* by embedder against the plan's reference side, as it is and extrapolated (`fad.py`). The
  floor row is what a perfect generator scores, the codec row what ours could.
- *KLD*: KL(real || made) over the softmax of class logits, between each clip and the real audio of
  its caption, in nats, mean over pairs. `shuffled_kld` is that of real clips of other captions.
- *Similarity* (MusicLM's MCC, Section 4.4): cosine of caption and clip in each joint space; of the
  right caption, minus the mean of all others. The space that conditions a model favours it, as the
  paper concedes: give an independent one too. Beside it, how many captions find their clip.
- *Adherence* to asked tempo, key and metre (`adherence.py`), and the lead (`attributes.py`).

A plan without a corpus (captions alone) has similarity and adherence only, and FAD where reference
statistics are given.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Corpus
from musiclm.evaluation.adherence import Adherence, adherence, asked_in
from musiclm.evaluation.analysis import (
    TAGGER,
    Analysis,
    AnalysisCache,
    Judges,
    ProgressReport,
    Treatment,
)
from musiclm.evaluation.attributes import (
    InstrumentAgreement,
    instrument_agreement,
    instrument_of_lead,
)
from musiclm.evaluation.distances import (
    GaussianStatistics,
    Interval,
    bootstrap_mean,
    kl_divergences,
)
from musiclm.evaluation.fad import FadEstimate, extrapolated_fad, resampled_fad
from musiclm.evaluation.plan import EvaluationPlan, ReferenceClip
from musiclm.evaluation.retrieval import RetrievalReport, retrieval

ClipReader = Callable[[], Iterable[Waveform]]
GENERATED = "generated"
FLOOR = "other real pieces"
KLD_DIRECTION = "KL(real || made), softmax, nats"


@dataclass(frozen=True)
class CaptionSimilarity:
    """Cosine between captions and clips in a joint space; `by_clip` is of the right captions."""

    right: float
    shuffled: float
    difference: Interval
    by_clip: tuple[float, ...]


@dataclass(frozen=True)
class RowScores:
    """One row of a report; what could not be measured is None or empty.

    `fad` lacks an embedder with too few windows for a covariance: 67 clips of 10 s are enough for
    MusicNN, which takes three windows of each. `instruments` is None when no asked lead has a tag,
    as in a corpus without labels.
    """

    num_windows: int
    fad: Mapping[str, FadEstimate]
    kld: Interval | None
    kld_by_clip: tuple[float, ...]
    similarity: Mapping[str, CaptionSimilarity]
    retrieval: Mapping[str, RetrievalReport]
    adherence: Mapping[str, Adherence]
    instruments: InstrumentAgreement | None


@dataclass(frozen=True)
class EvaluationReport:
    """The figures of one evaluation, by row.

    `clip_seconds` is the length of every clip, or their mean where they differ: `seconds_between`
    then is the shortest and the longest. `too_few_windows` says by embedder why no row has an FAD;
    empty where one has, or where there is nothing to compare with.
    """

    num_clips: int
    clip_seconds: float
    seed: int
    class_judge: str
    kld_direction: str
    shuffled_kld: Interval | None
    rows: Mapping[str, RowScores]
    too_few_windows: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds_between: tuple[float, float] | None = None


def evaluate_systems(  # noqa: PLR0913  (what is compared, by whom, with what)
    plan: EvaluationPlan,
    corpus: Corpus | None,
    systems: Mapping[str, ClipReader],
    judges: Judges,
    *,
    reference: Mapping[str, GaussianStatistics] | None = None,
    cache: AnalysisCache | None = None,
    on_progress: ProgressReport | None = None,
) -> EvaluationReport:
    """Scores the clips of one or several systems against a plan.

    Args:
        plan: What was asked, and what is compared with.
        corpus: The corpus the plan was made from; None where only captions are known.
        systems: By name, what gives one clip for each of `plan.asked`, in order, any sample rate.
        judges: The scoring models.
        reference: What FAD compares with, by embedder; by default the plan's reference side.
        cache: Where analyses are kept between runs.
        on_progress: Told the row, the clips done and the clips in all.

    Raises:
        DataError: The clips are not as many as planned, or the corpus is another one.
        AudioError: A clip is unreadable or too short to judge.
    """
    cache = cache or AnalysisCache()

    def analyse(row: str, read: ClipReader, treatment: Treatment | None = None) -> Analysis:
        return cache.analyse(
            row, read, len(plan.asked), judges, treatment=treatment, on_progress=on_progress
        )

    rows = {name: analyse(name, read) for name, read in systems.items()}
    if corpus is not None:
        asked_audio = _real_audio(corpus, plan.asked, plan.clip_seconds)
        rows[FLOOR] = analyse(FLOOR, asked_audio)
        for name, treatment in judges.treatments.items():
            rows[name] = analyse(name, asked_audio, treatment)
    too_few: dict[str, str] = {}
    if corpus is not None and reference is None:
        other_side = cache.analyse(
            "reference",
            _real_audio(corpus, plan.reference, plan.clip_seconds),
            len(plan.reference),
            judges,
            on_progress=on_progress,
        )
        reference = {
            name: GaussianStatistics.fit(windows)
            for name, windows in other_side.embeddings.items()
            if _has_covariance(windows)
        }
        too_few = {
            name: f"{len(windows)} windows, more than {windows.shape[1]} are needed"
            for name, windows in other_side.embeddings.items()
            if name not in reference
        }
    too_few |= _rows_with_too_few(rows.values(), reference or {})
    real = rows[FLOOR] if corpus is not None else None
    text = _text_embeddings(plan, judges)
    return EvaluationReport(
        num_clips=len(plan.asked),
        clip_seconds=plan.clip_seconds,
        seed=plan.seed,
        class_judge=judges.classifier.name if judges.classifier else TAGGER,
        kld_direction=KLD_DIRECTION,
        shuffled_kld=_shuffled_kld(real, plan) if real is not None else None,
        rows={
            name: _scores(row, plan, reference or {}, None if row is real else real, text, judges)
            for name, row in rows.items()
        },
        too_few_windows=too_few,
    )


def _scores(
    row: Analysis,
    plan: EvaluationPlan,
    reference: Mapping[str, GaussianStatistics],
    real: Analysis | None,
    text: Mapping[str, Tensor],
    judges: Judges,
) -> RowScores:
    captions = [clip.prompt for clip in plan.asked]
    leads = [clip.lead for clip in plan.asked]
    streams = RandomStreams(plan.seed)
    draw = np.random.default_rng(plan.seed)
    divergences = (
        kl_divergences(real.class_logits, row.class_logits) if real is not None else np.zeros(0)
    )
    has_tags = any(instrument_of_lead(lead) for lead in leads)
    return RowScores(
        num_windows=row.embeddings[TAGGER].shape[0],
        fad={
            name: _fad(row.embeddings[name], statistics, plan, draw)
            for name, statistics in reference.items()
            if _has_covariance(row.embeddings[name])
        },
        kld=bootstrap_mean(divergences, generator=draw) if divergences.size else None,
        kld_by_clip=tuple(divergences.tolist()),
        similarity={
            name: caption_similarity(
                vectors, row.joint[name], captions, np.random.default_rng(plan.seed)
            )
            for name, vectors in text.items()
        },
        retrieval={
            name: retrieval(
                torch.nn.functional.normalize(vectors, dim=1),
                torch.nn.functional.normalize(row.joint[name], dim=1),
                generator=streams.generator("retrieval", name),
            )
            for name, vectors in text.items()
        },
        adherence=adherence([asked_in(c) for c in captions], row.heard, generator=draw)
        if row.heard
        else {},
        instruments=instrument_agreement(leads, row.tag_probabilities, judges.tagger.tags)
        if has_tags
        else None,
    )


def _fad(
    windows: Float[np.ndarray, "windows dim"],
    reference: GaussianStatistics,
    plan: EvaluationPlan,
    generator: np.random.Generator,
) -> FadEstimate:
    """With resamples that are the same clips in every row."""
    estimate = extrapolated_fad(windows, reference, generator=generator)
    num_clips = len(plan.asked)
    if len(windows) % num_clips:  # clips of a user's own may differ in length
        return estimate
    draws = np.random.default_rng(plan.seed)
    return replace(
        estimate, resampled=resampled_fad(windows, reference, num_clips, generator=draws)
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
    return CaptionSimilarity(
        float(right.mean()), float(shuffled.mean()), difference, tuple(right.tolist())
    )


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


def _text_embeddings(plan: EvaluationPlan, judges: Judges) -> dict[str, Tensor]:
    captions = [clip.prompt for clip in plan.asked]
    with torch.no_grad():
        return {
            name: model.embed_text(captions).float().cpu()
            for name, model in judges.text_audio.items()
        }


def _shuffled_kld(real: Analysis, plan: EvaluationPlan) -> Interval:
    """Of each real clip against its neighbour's."""
    neighbours = np.roll(real.class_logits, 1, axis=0)
    divergences = kl_divergences(real.class_logits, neighbours)
    return bootstrap_mean(divergences, generator=np.random.default_rng(plan.seed))


def _rows_with_too_few(
    rows: Collection[Analysis], reference: Mapping[str, GaussianStatistics]
) -> dict[str, str]:
    """Why no row has an FAD although there is a reference, by embedder."""
    found: dict[str, str] = {}
    for name, statistics in reference.items():
        most = max(row.embeddings[name].shape[0] for row in rows)
        if most <= statistics.mean.size:
            found[name] = f"{most} windows, more than {statistics.mean.size} are needed"
    return found


def _has_covariance(windows: Float[np.ndarray, "windows dim"]) -> bool:
    """Whether there are enough windows for FAD."""
    return windows.shape[0] > windows.shape[1]
