"""Linear probes: what of the music can be read off a representation with one matrix?

Conventions: a representation is any function from audio to frames (semantic tokens as one-hot
vectors, features of a layer, log-mels). Probes are logistic regressions on standardised inputs,
fitted on clips of one split and scored on clips of another. `pitch_class` reads single frames in
which a melody note sounds; `instrument` (the lead) and `tempo` (slow, medium, fast: thirds of the
fitting clips) read a whole crop: mean, deviation and mean change of each dimension, and the
autocorrelation of the amount of change. Every representation passes through the same probe.
Chance is the accuracy of always giving the class that is commonest in the fitting clips.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.data.manifest import Clip, Corpus, Split
from musiclm.evaluation.distances import Interval, bootstrap_mean

Representation = Callable[[Tensor], Tensor]
"""`[1, samples]` audio to `[1, dim, frames]`."""

PROBES = ("pitch_class", "instrument", "tempo")


class ProbeConfig(Config):
    """How many clips are read and how the probes are fitted."""

    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Rate the representations read."""
    crop_seconds: float = Field(default=10.0, gt=0)
    """Length of a crop."""
    crops_per_clip: int = Field(default=1, gt=0)
    """Crops of each clip, spread evenly over it; one is its middle."""
    fit_split: Split = "train"
    """Clips the probes are fitted on."""
    test_split: Split = "validation"
    """Clips the probes are scored on."""
    num_fit_clips: int = Field(default=400, gt=0)
    """At most so many, spread evenly over the split."""
    num_test_clips: int = Field(default=200, gt=0)
    """At most so many, spread evenly over the split."""
    frames_per_clip: int = Field(default=16, gt=0)
    """Frames with a sounding melody note that are drawn from each clip, shared among its crops."""
    penalties: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Inverse strengths of the regression's penalty; the best on a quarter of the fitting clips."""
    max_iterations: int = Field(default=200, gt=0)
    """Of the regression's solver."""
    novelty_lags: int = Field(default=50, gt=0)
    """Frames over which the change is correlated with itself."""
    seed: int = 0
    """Names the draws of frames and of the quarter."""


@dataclass(frozen=True)
class ProbeScore:
    """Accuracy of one probe on unseen clips.

    Attributes:
        accuracy: Share of right answers.
        chance: Accuracy of the commonest class.
        num_classes: Classes that were told apart.
        num_tested: Frames or clips that were scored.
        by_clip: Share of right answers in each clip, by the clip's number.
    """

    accuracy: float
    chance: float
    num_classes: int
    num_tested: int
    by_clip: Mapping[int, float] = field(default_factory=dict[int, float])


@dataclass(frozen=True)
class ProbeReport:
    """Scores by representation, then by probe."""

    scores: Mapping[str, Mapping[str, ProbeScore]]

    def above(self, name: str, baseline: str) -> dict[str, Interval]:
        """How much more often one representation is right than another, by probe, clip by clip.

        Each clip counts as much as any other, so that of `pitch_class` may differ a little from
        the difference of the accuracies, in which each frame does.

        Raises:
            DataError: Fewer than two clips were scored.
        """
        better, worse = self.scores[name], self.scores[baseline]
        return {
            probe: bootstrap_mean(
                np.array([better[probe].by_clip[c] - worse[probe].by_clip[c] for c in clips]),
                generator=np.random.default_rng(0),
            )
            for probe in PROBES
            if (clips := sorted(better[probe].by_clip))
        }

    def markdown(self) -> str:
        """A table, one row a representation."""
        lines = [
            "| representation | " + " | ".join(PROBES) + " |",
            "|---" * (len(PROBES) + 1) + "|",
        ]
        for name, scores in self.scores.items():
            cells = [f"{scores[probe].accuracy:.3f}" for probe in PROBES]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        first = next(iter(self.scores.values()))
        chances = [f"{first[probe].chance:.3f}" for probe in PROBES]
        return "\n".join([*lines, "| chance | " + " | ".join(chances) + " |"])


def hot_frames(codes: Int[Tensor, " frames"], size: int) -> Float[Tensor, "1 size frames"]:
    """Codes as a representation: one dimension for each, 1 where it is said."""
    return functional.one_hot(codes, size).T[None].float()


def mel_representation(config: LogMelConfig, *, frame_rate_hz: int = 25) -> Representation:
    """Plain log-mels, averaged down to a frame rate."""
    log_mel = LogMel(config)
    hops = round(config.frame_rate_hz / frame_rate_hz)

    def represent(samples: Tensor) -> Tensor:
        return functional.avg_pool1d(log_mel(samples), hops)

    return represent


def run_probes(
    corpus: Corpus,
    representations: Mapping[str, Representation],
    config: ProbeConfig,
    *,
    test_corpus: Corpus | None = None,
) -> ProbeReport:
    """Fits and scores every probe on every representation.

    Args:
        corpus: Whose clips the probes are fitted on.
        representations: By name.
        config: How many clips are read and how the probes are fitted.
        test_corpus: Whose clips they are scored on; by default those of `corpus`.

    Raises:
        DataError: A split has no clip, or its clips lack melody, lead or tempo.
    """
    fitting = _read(corpus, config.fit_split, config.num_fit_clips, representations, config)
    testing = _read(
        test_corpus or corpus, config.test_split, config.num_test_clips, representations, config
    )
    tempi = [clip.labels.tempo_bpm for clip in fitting.clips if clip.labels.tempo_bpm > 0]
    bounds = np.quantile(tempi, [1 / 3, 2 / 3]).tolist() if tempi else []
    return ProbeReport(
        {
            name: {
                probe: _score(
                    fitting.table(name, probe, bounds), testing.table(name, probe, bounds), config
                )
                for probe in PROBES
            }
            for name in representations
        }
    )


def pooled(frames: Float[Tensor, "dim frames"], novelty_lags: int) -> Float[np.ndarray, " pooled"]:
    """Mean, deviation, mean change of each dimension; autocorrelation of the amount of change."""
    change = frames.diff(dim=1).abs()
    novelty = change.mean(dim=0)
    novelty = novelty - novelty.mean()
    length = novelty.shape[0]
    power = torch.fft.rfft(novelty, n=2 * length).abs().square()
    correlation = torch.fft.irfft(power)[: novelty_lags + 1]
    correlation = functional.pad(correlation, (0, novelty_lags + 1 - correlation.shape[0]))
    correlation = correlation[1:] / correlation[0].clamp(min=1e-9)
    parts = [frames.mean(dim=1), frames.std(dim=1), change.mean(dim=1), correlation]
    return torch.cat(parts).float().numpy()


@dataclass(frozen=True)
class _Table:
    """Inputs, their classes and the clip each row comes from."""

    probe: str
    inputs: NDArray[np.float32]
    labels: NDArray[Any]
    owners: NDArray[np.int64]


@dataclass(frozen=True)
class _Readings:
    """What was read from the clips of a split; frames and crops by representation."""

    clips: Sequence[Clip]
    crop_owners: NDArray[np.int64]
    pitch_classes: Sequence[int]
    frame_owners: Sequence[int]
    frames: Mapping[str, NDArray[np.float32]]
    crops: Mapping[str, NDArray[np.float32]]

    def table(self, name: str, probe: str, tempo_bounds: Sequence[float]) -> _Table:
        """Rows whose class is known."""
        if probe == "pitch_class":
            labels = np.array([str(pitch) for pitch in self.pitch_classes])
            return _Table(probe, self.frames[name], labels, np.array(self.frame_owners))
        if probe == "instrument":
            by_clip = np.array([clip.labels.lead for clip in self.clips])
        else:
            by_clip = np.array([_tempo_class(clip, tempo_bounds) for clip in self.clips])
        labels = by_clip[self.crop_owners]
        known = np.flatnonzero(labels != "")
        return _Table(probe, self.crops[name][known], labels[known], self.crop_owners[known])


def _tempo_class(clip: Clip, bounds: Sequence[float]) -> str:
    tempo = clip.labels.tempo_bpm
    if tempo <= 0 or not bounds:
        return ""
    return "slow" if tempo < bounds[0] else "medium" if tempo < bounds[1] else "fast"


def _read(
    corpus: Corpus,
    split: Split,
    num_clips: int,
    representations: Mapping[str, Representation],
    config: ProbeConfig,
) -> _Readings:
    """Reads crops once and shows each to every representation."""
    available = corpus.split(split).clips
    if not available:
        raise DataError(f"{corpus.folder} has no {split} clips to probe. Prepare a larger corpus.")
    count = min(num_clips, len(available))
    clips = [available[index * len(available) // count] for index in range(count)]
    pitch_classes: list[int] = []
    owners: list[int] = []
    per_crop = -(-config.frames_per_clip // config.crops_per_clip)
    num_crops = len(clips) * config.crops_per_clip
    frames: dict[str, list[NDArray[np.float32]]] = {name: [] for name in representations}
    crops: dict[str, list[NDArray[np.float32]]] = {name: [] for name in representations}
    draws = np.random.default_rng(config.seed)
    for crop in range(num_crops):
        owner, place = divmod(crop, config.crops_per_clip)
        clip = clips[owner]
        room = max(clip.duration_seconds - config.crop_seconds, 0)
        start = room * (2 * place + 1) / (2 * config.crops_per_clip)
        waveform = corpus.audio(
            clip,
            sample_rate_hz=config.sample_rate_hz,
            start_seconds=start,
            duration_seconds=config.crop_seconds,
        )
        seconds = draws.uniform(0, waveform.duration_seconds, 4 * per_crop)
        sounding = [(at, pitch) for at in seconds if (pitch := _pitch_at(clip, start + at)) >= 0]
        sounding = sounding[:per_crop]
        pitch_classes += [pitch % 12 for _, pitch in sounding]
        owners += [owner] * len(sounding)
        samples = waveform.samples[None]
        for name, represent in representations.items():
            shown = represent(samples)[0].detach()
            rate = shown.shape[1] / waveform.duration_seconds
            places = [min(int(at * rate), shown.shape[1] - 1) for at, _ in sounding]
            frames[name].append(shown[:, places].T.float().numpy())
            crops[name].append(pooled(shown, config.novelty_lags))
    return _Readings(
        clips,
        np.arange(num_crops) // config.crops_per_clip,
        pitch_classes,
        owners,
        {name: np.concatenate(parts) for name, parts in frames.items()},
        {name: np.stack(parts) for name, parts in crops.items()},
    )


def _pitch_at(clip: Clip, seconds: float) -> int:
    """The highest melody note that sounds, or -1."""
    return max(
        (note.pitch for note in clip.melody if note.start_seconds <= seconds < note.end_seconds),
        default=-1,
    )


def _score(fitting: _Table, testing: _Table, config: ProbeConfig) -> ProbeScore:
    """Accuracy on the test rows whose class the fitting rows know."""
    counts = Counter(fitting.labels.tolist())
    tested = np.isin(testing.labels, list(counts))
    if len(counts) < 2 or not tested.any():
        raise DataError(
            f"The clips have no labels to probe for {fitting.probe}: give clips with melody notes, "
            "a lead instrument and a tempo, of at least two kinds each."
        )
    centre = fitting.inputs.mean(axis=0)
    width = fitting.inputs.std(axis=0) + 1e-5
    inputs, unseen = (fitting.inputs - centre) / width, (testing.inputs[tested] - centre) / width
    truth = testing.labels[tested]
    held = np.random.default_rng(config.seed).random(int(fitting.owners.max()) + 1) < 0.25
    aside = held[fitting.owners]
    best = config.penalties[0]
    if aside.any() and len(set(fitting.labels[~aside].tolist())) > 1:
        accuracies = [
            _fitted(inputs[~aside], fitting.labels[~aside], penalty, config).score(
                inputs[aside], fitting.labels[aside]
            )
            for penalty in config.penalties
        ]
        best = config.penalties[int(np.argmax(accuracies))]
    probe = _fitted(inputs, fitting.labels, best, config)
    commonest = counts.most_common(1)[0][0]
    is_right = np.equal(probe.predict(unseen), truth)
    owners = testing.owners[tested]
    return ProbeScore(
        accuracy=float(np.mean(is_right)),
        chance=float(np.mean(truth == commonest)),
        num_classes=len(counts),
        num_tested=len(truth),
        by_clip={
            int(owner): float(np.mean(is_right[owners == owner])) for owner in np.unique(owners)
        },
    )


def _fitted(
    inputs: NDArray[np.float32], labels: NDArray[Any], penalty: float, config: ProbeConfig
) -> LogisticRegression:
    with warnings.catch_warnings():
        # A probe that has not fully converged is a little too weak, for all alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=penalty, max_iter=config.max_iterations).fit(inputs, labels)
