"""FAD: against an independent formula, extrapolation, windows, and references kept on disk."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, DataError
from musiclm.evaluation.distances import GaussianStatistics, frechet_audio_distance
from musiclm.evaluation.embedders import Embedder, sliding_windows, vggish_windows
from musiclm.evaluation.fad import (
    FadEstimate,
    ReferenceCache,
    content_hash,
    extrapolated_fad,
    fad_difference,
    resampled_fad,
)


def frechet_audio_distance_package(one: np.ndarray, other: np.ndarray) -> float:
    """The formula of the packages frechet-audio-distance and fadtk: `scipy.linalg.sqrtm`."""
    mu1, mu2 = one.mean(axis=0), other.mean(axis=0)
    sigma1, sigma2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    covmean = np.asarray(scipy.linalg.sqrtm(sigma1.dot(sigma2)))
    assert np.allclose(np.imag(np.diagonal(covmean)), 0, atol=1e-3)
    diff = mu1 - mu2
    return float(diff @ diff + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(np.real(covmean)))


def embeddings(generator: np.random.Generator, frames: int, dim: int, decay: float) -> np.ndarray:
    """Rows with a spectrum that falls off, as those of networks do, and a mean off zero."""
    mixing = generator.standard_normal((dim, dim)) * decay ** np.arange(dim)[:, None]
    return generator.standard_normal((frames, dim)) @ mixing + generator.standard_normal(dim)


@pytest.mark.parametrize(("dim", "decay"), [(8, 1.0), (40, 0.9), (120, 0.97)])
def test_agrees_with_the_public_packages_to_a_millionth(dim, decay):
    generator = np.random.default_rng(dim)
    one = embeddings(generator, 400, dim, decay)
    other = embeddings(generator, 350, dim, decay)
    expected = frechet_audio_distance_package(one, other)
    assert frechet_audio_distance(one, other) == pytest.approx(expected, rel=1e-6)


def test_extrapolation_removes_most_of_the_bias_of_small_sets():
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((20, 20))
    reference = GaussianStatistics(np.zeros(20), mixing.T @ mixing, 10**9)
    scale = np.trace(reference.covariance)
    estimates = [
        extrapolated_fad(
            generator.standard_normal((400, 20)) @ mixing, reference, generator=generator
        )
        for _ in range(8)
    ]
    biased = np.mean([estimate.fad for estimate in estimates]) / scale
    corrected = np.mean([float(estimate.fad_infinity or 0) for estimate in estimates]) / scale
    assert biased > 0.01
    assert abs(corrected) < biased / 4
    assert all(estimate.fit_r2 and 0 < estimate.fit_r2 <= 1 for estimate in estimates)
    assert estimates[0].num_windows == 400


def estimate(windows: np.ndarray, reference: GaussianStatistics, num_clips: int) -> FadEstimate:
    generator = np.random.default_rng(7)
    found = extrapolated_fad(windows, reference, generator=generator)
    draws = resampled_fad(windows, reference, num_clips, generator=np.random.default_rng(7))
    return replace(found, resampled=draws)


def test_differences_of_fad_are_paired_by_clip_and_cover_what_is_true():
    """A small shift of every window shows; sets of the same make are told apart about as often as
    an interval of 95 % allows."""
    generator = np.random.default_rng(3)
    reference = GaussianStatistics.fit(generator.standard_normal((4_000, 4)))
    windows = generator.standard_normal((300, 4))
    near, far = estimate(windows, reference, 100), estimate(windows + 0.2, reference, 100)
    found = fad_difference(near, far)
    assert found is not None
    assert found.low > 0
    assert found.mean == pytest.approx(far.fad - near.fad)
    back = fad_difference(far, near)
    assert back is not None
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    misses = 0
    for _ in range(30):
        pair = [estimate(generator.standard_normal((120, 4)), reference, 40) for _ in range(2)]
        same = fad_difference(*pair)
        assert same is not None
        misses += not same.low <= 0 <= same.high
    assert misses <= 6


def test_resamples_keep_the_windows_of_a_clip_together():
    """Clips whose windows are copies of one another resample as the clips alone do."""
    generator = np.random.default_rng(1)
    reference = GaussianStatistics.fit(generator.standard_normal((50, 3)))
    clips = generator.standard_normal((20, 3))
    draws = resampled_fad(np.repeat(clips, 2, axis=0), reference, 20, generator=generator)
    assert len(draws) == 100
    assert np.std(draws) > 0
    with pytest.raises(DataError, match="21 windows are not those of 20 clips"):
        resampled_fad(np.zeros((21, 3)), reference, 20, generator=generator)
    bare = FadEstimate(1.0, None, None, 20, 50)
    assert fad_difference(bare, bare) is None
    with pytest.raises(DataError, match="are no pairs"):
        fad_difference(bare, replace(bare, resampled=(1.0, 2.0)))


def test_extrapolation_says_so_when_there_are_too_few_windows_to_fit():
    rows = np.random.default_rng(0).standard_normal((12, 10))
    estimate = extrapolated_fad(
        rows, GaussianStatistics.fit(rows), generator=np.random.default_rng(1)
    )
    assert estimate.fad == pytest.approx(0, abs=1e-9)
    assert estimate.fad_infinity is None


def test_constant_audio_is_refused():
    reference = GaussianStatistics.fit(np.random.default_rng(0).standard_normal((30, 4)))
    for value in (1.0, 0.1, 0.37):  # thirty times 0.1 is not quite 3
        with pytest.raises(DataError, match=r"generated side .* silent or constant"):
            extrapolated_fad(np.full((30, 4), value), reference, generator=np.random.default_rng(0))
    point = GaussianStatistics.fit(np.full((30, 4), 0.1))
    rows = np.random.default_rng(0).standard_normal((30, 4))
    with pytest.raises(DataError, match=r"reference side .* silent or constant"):
        extrapolated_fad(rows, point, generator=np.random.default_rng(0))


def test_vggish_windows_are_a_second_long_and_start_every_half_second():
    clip = Waveform(torch.arange(35_000) / 35_000, 10_000)
    windows = vggish_windows(clip, 10_000)
    assert windows.shape == (6, 10_000)
    assert torch.equal(windows[1][:5_000], windows[0][5_000:])
    quiet = vggish_windows(Waveform(torch.full((10_000,), 0.01), 10_000), 10_000)
    assert float(quiet.max()) == pytest.approx(0.1)  # raised by at most 20 dB
    with pytest.raises(AudioError, match="shorter than a window"):
        vggish_windows(Waveform(torch.zeros(9_999), 10_000), 10_000)


class Spectrum:
    """Four octave bands of half-second windows; counts how often it is asked."""

    name = "spectrum"
    identity = "spectrum-1"

    def __init__(self) -> None:
        self.num_heard = 0

    def embed(self, waveform: Waveform) -> torch.Tensor:
        self.num_heard += 1
        half = waveform.sample_rate_hz // 2
        spectrum = torch.fft.rfft(sliding_windows(waveform.samples, half, half)).abs()
        return torch.stack([part.mean(dim=1) for part in spectrum.tensor_split(4, dim=1)], dim=1)


def noises(count: int, rate: int = 2_000) -> list[Waveform]:
    generator = torch.Generator().manual_seed(1)
    return [Waveform(torch.randn(2 * rate, generator=generator), rate) for _ in range(count)]


def test_reference_statistics_are_computed_once_and_named_by_content(tmp_path):
    embedder, clips = Spectrum(), noises(3)
    assert isinstance(embedder, Embedder)
    cache = ReferenceCache(tmp_path / "cache")
    first = cache.statistics(embedder, lambda: clips)
    assert embedder.num_heard == 3
    again = ReferenceCache(tmp_path / "cache").statistics(embedder, lambda: iter(clips))
    assert embedder.num_heard == 3
    assert np.array_equal(first.mean, again.mean)
    assert np.array_equal(first.covariance, again.covariance)
    assert first.num_frames == again.num_frames == 12
    cache.statistics(embedder, lambda: clips[:2])
    assert embedder.num_heard == 5
    embedder.identity = "spectrum-2"
    cache.statistics(embedder, lambda: clips)
    assert embedder.num_heard == 8


def test_a_broken_cache_file_is_made_again(tmp_path):
    embedder, clips = Spectrum(), noises(3)
    cache = ReferenceCache(tmp_path)
    whole = cache.statistics(embedder, lambda: clips)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:20])
    assert np.array_equal(cache.statistics(embedder, lambda: clips).mean, whole.mean)
    assert embedder.num_heard == 6


def test_content_hash_hears_rate_order_and_every_sample():
    one, two = noises(2)
    changed = Waveform(one.samples.clone(), one.sample_rate_hz)
    changed.samples[17] += 1e-6
    slower = Waveform(one.samples, 1_000)
    hashes = [
        content_hash(clips)
        for clips in ([one, two], [two, one], [changed, two], [slower, two], [one])
    ]
    assert len(set(hashes)) == 5
    assert content_hash([one, two]) == hashes[0]


def test_no_reference_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no reference audio"):
        ReferenceCache(tmp_path).statistics(Spectrum(), list[Waveform])
