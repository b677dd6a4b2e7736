"""FAD as a report prints it: extrapolated to endless audio, against references kept on disk.

Conventions: as in `distances.py`. FAD between finite sets is biased upwards by about a constant
over the number of windows; `extrapolated_fad` fits `FAD(n) = FAD_inf + slope / n` to random subsets
of the generated side and gives the intercept (Gui et al. 2024, "Adapting Fréchet Audio Distance";
Chong & Forsyth 2020), which compares between sets of different sizes. The reference side stays as
it is, so its own part of the bias is in every row alike: read rows beside the real-vs-real floor.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.files import written_whole
from musiclm.evaluation.distances import GaussianStatistics, Interval, frechet_distance
from musiclm.evaluation.embedders import Embedder
from musiclm.evaluation.intervals import Z_95

_FORMAT = "musiclm-fad-reference-1"
_LEAST_SPREAD = 1e-12  # variance over squared length; rounding alone is far below, music far above


@dataclass(frozen=True)
class FadEstimate:
    """FAD of one set of clips, and how it was come by.

    Attributes:
        fad: Over all windows.
        fad_infinity: The intercept; may be below 0 by the noise of the fit. None with too few
            windows to fit a line.
        fit_r2: Share of the variance between subsets that the line explains.
        num_windows: Windows of the generated side.
        num_reference_windows: Windows of the reference side.
        resampled: FAD of resamples of the clips (`resampled_fad`); empty where none were drawn.
    """

    fad: float
    fad_infinity: float | None
    fit_r2: float | None
    num_windows: int
    num_reference_windows: int
    resampled: tuple[float, ...] = ()


def extrapolated_fad(
    generated: Float[np.ndarray, "windows dim"],
    reference: GaussianStatistics,
    *,
    generator: np.random.Generator,
    num_sizes: int = 12,
) -> FadEstimate:
    """FAD and FAD-infinity of a set of windows.

    Args:
        generated: The windows' embeddings.
        reference: Of the other side.
        generator: Draws the subsets (without replacement).
        num_sizes: Subset sizes, evenly spaced in one over the size.

    Raises:
        DataError: Too few windows for a covariance, values that are not finite, no spread at all
            on either side (constant audio), or a reference of another dimension.
    """
    whole = GaussianStatistics.fit(generated)
    for side, statistics in (("generated", whole), ("reference", reference)):
        if _is_a_point(statistics):
            raise DataError(
                f"All windows of the {side} side have the same embedding: the clips are silent or "
                "constant. FAD would be that of a point; check the audio."
            )
    fad = frechet_distance(whole, reference)
    num_windows, dim = generated.shape
    smallest = max(dim + 2, num_windows // 3)
    sizes = np.unique(np.round(1 / np.linspace(1 / smallest, 1 / num_windows, num_sizes)))
    if smallest >= num_windows or sizes.size < 3:
        return FadEstimate(fad, None, None, num_windows, reference.num_frames)
    distances = [
        frechet_distance(
            GaussianStatistics.fit(
                generated[generator.choice(num_windows, int(size), replace=False)]
            ),
            reference,
        )
        for size in sizes
    ]
    values = np.array(distances)
    slope, intercept = np.polyfit(1 / sizes, values, 1)
    residual = np.square(values - (intercept + slope / sizes)).sum()
    spread = np.square(values - values.mean()).sum()
    r2 = 1 - residual / spread if spread > 0 else 1.0
    return FadEstimate(fad, float(intercept), float(r2), num_windows, reference.num_frames)


def resampled_fad(
    generated: Float[np.ndarray, "windows dim"],
    reference: GaussianStatistics,
    num_clips: int,
    *,
    generator: np.random.Generator,
    num_resamples: int = 100,
) -> tuple[float, ...]:
    """FAD of resamples of the clips, drawn with replacement, each clip with all of its windows.

    Two systems that made the same number of clips get the same draws from generators of the same
    seed, so their resamples are pairs. A resample repeats clips, which biases its FAD upwards;
    read the spread of differences, not the level.

    Args:
        generated: The windows' embeddings, clip by clip, as many windows a clip.
        reference: Of the other side.
        num_clips: How many clips the windows are of.
        generator: Draws the clips.
        num_resamples: How often.

    Raises:
        DataError: The windows cannot be shared evenly among the clips.
    """
    if num_clips < 1 or len(generated) % num_clips:
        raise DataError(f"{len(generated)} windows are not those of {num_clips} clips of a length.")
    by_clip = generated.reshape(num_clips, -1, generated.shape[1])
    draws = generator.integers(0, num_clips, size=(num_resamples, num_clips))
    return tuple(
        frechet_distance(GaussianStatistics.fit(np.concatenate(by_clip[rows])), reference)
        for rows in draws
    )


def fad_difference(one: FadEstimate, other: FadEstimate) -> Interval | None:
    """FAD of `other` minus FAD of `one`: positive where `one` is nearer to the reference.

    The interval is 1.96 standard deviations of the paired resamples' differences to either side;
    None without resamples.

    Raises:
        DataError: They have different numbers of resamples.
    """
    if len(one.resampled) != len(other.resampled):
        raise DataError(
            f"FADs with {len(one.resampled)} and {len(other.resampled)} resamples are no pairs."
        )
    if len(one.resampled) < 2:
        return None
    spread = np.std(np.subtract(other.resampled, one.resampled), ddof=1)
    difference, reach = other.fad - one.fad, float(Z_95 * spread)
    return Interval(difference, difference - reach, difference + reach)


class ReferenceCache:
    """Reference statistics on disk, named by a hash of the embedder and of the audio itself.

    Another clip, another order, another rate or other weights are another name: what is found is
    always right.

    Args:
        folder: Where the files go; made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def statistics(
        self, embedder: Embedder, read: Callable[[], Iterable[Waveform]]
    ) -> GaussianStatistics:
        """The statistics of some audio: read if they were made before, else made and kept.

        Args:
            embedder: Who listens.
            read: Gives the clips, one after the other, each time it is called.

        Raises:
            DataError: There are too few windows.
            AudioError: A clip is shorter than a window.
        """
        path = self._folder / f"{content_hash(read(), embedder.identity)}.safetensors"
        kept = _read(path)
        if kept is None:
            rows = [embedder.embed(clip).numpy() for clip in read()]
            if not rows:
                raise DataError("There is no reference audio. Give a folder or corpus with clips.")
            kept = GaussianStatistics.fit(np.concatenate(rows))
            _write(path, kept)
        return kept


def content_hash(clips: Iterable[Waveform], identity: str = "") -> str:
    """A hash of samples and rates, in order, and of who listens to them."""
    digest = hashlib.sha256(f"{_FORMAT}/{identity}".encode())
    for clip in clips:
        digest.update(f"/{clip.sample_rate_hz}/{clip.num_samples}/".encode())
        digest.update(clip.samples.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _is_a_point(statistics: GaussianStatistics) -> bool:
    """No spread but for rounding: the mean of many equal numbers is not always that number."""
    size = float(statistics.mean @ statistics.mean)
    return float(np.trace(statistics.covariance)) <= _LEAST_SPREAD * size


def _read(path: Path) -> GaussianStatistics | None:
    """What was kept; None if there is nothing, or a file that another program broke."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                return None
            mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
    except (SafetensorError, OSError):
        return None
    return GaussianStatistics(mean, covariance, int(metadata["num_frames"]))


def _write(path: Path, statistics: GaussianStatistics) -> None:
    tensors = {"mean": statistics.mean, "covariance": statistics.covariance}
    metadata = {"format": _FORMAT, "num_frames": str(statistics.num_frames)}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
