"""Interval profiles: which intervals follow one another at which distance in time.

The products of a contour with itself, shifted in time and turned around the octave, say how often
one pitch class is followed by another so much higher, so much later. A transposition changes
nothing; a little more or less tempo changes little, because distances are blurred. Linear
discriminants of these profiles tell tunes apart before any step of training.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Frames of 80 ms; each is blurred by a fifth of itself.
LAGS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 19, 22, 26)
NUM_FEATURES = 2 * 12 * len(LAGS)
_FRAMES = 2
_BLUR = 0.2


def interval_products(
    contour: Float[Tensor, "batch 14 frames"],
) -> Float[Tensor, "batch features half_frames"]:
    """The products at each moment, for what sounds and for what begins.

    Args:
        contour: Square roots of the shares of pitch classes and of silence, and the onset.
    """
    frames = contour.shape[2] // _FRAMES * _FRAMES
    shares = contour[:, :12, :frames].square().unflatten(2, (-1, _FRAMES)).mean(dim=3)
    onsets = contour[:, 13, :frames].unflatten(1, (-1, _FRAMES)).amax(dim=2)
    features: list[Tensor] = []
    for layer in (shares, shares * onsets[:, None]):
        for lag in LAGS:
            later = _blurred_shift(layer, lag)
            turned = (later.roll(-interval, dims=1) for interval in range(12))
            features.extend((layer * other).sum(dim=1) for other in turned)
    return torch.stack(features, dim=1)


def window_profiles(
    contour: Float[Tensor, "batch 14 frames"],
    starts: Int[Tensor, "batch windows"],
    num_frames: int,
) -> Float[Tensor, "batch windows features"]:
    """Square roots of the mean products in windows; past the end they see less.

    Args:
        contour: As `interval_products` takes it.
        starts: First frame of each window.
        num_frames: Length of a window.
    """
    products = interval_products(contour)
    sums = torch.nn.functional.pad(products.cumsum(dim=2), (1, 0))
    count = products.shape[2]
    first = (starts // _FRAMES).clamp(max=max(count - 1, 0))
    last = ((starts + num_frames) // _FRAMES).clamp(max=count)
    shape = (-1, products.shape[1], -1)
    upper = sums.gather(2, last[:, None].expand(shape))
    lower = sums.gather(2, first[:, None].expand(shape))
    means = (upper - lower) / (last - first).clamp(min=1)[:, None]
    return (means.clamp(min=0) + 1e-6).sqrt().transpose(1, 2)


def discriminants(
    profiles: Float[Tensor, "rows features"],
    melodies: Int[Tensor, " rows"],
    num_directions: int,
    *,
    shrinkage: float = 0.05,
) -> tuple[Float[Tensor, " features"], Float[Tensor, "directions features"]]:
    """The mean, and the directions in which melodies differ most for what their versions do.

    Linear discriminant analysis: versions of one melody are whitened, and of what is left the
    directions with most variance between melodies are kept.

    Args:
        profiles: Several versions of each of many melodies.
        melodies: Whose version each row is, counted from 0.
        num_directions: How many to keep.
        shrinkage: How much of a round covariance is mixed in; few rows need some.
    """
    rows = profiles.double()
    mean = rows.mean(dim=0)
    rows = rows - mean
    counts = torch.bincount(melodies).double()
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add(0, melodies, rows)
    centres = sums / counts[:, None].clamp(min=1)
    left = rows - centres[melodies]
    within = left.T @ left / len(left)
    size = within.shape[0]
    within.diagonal().add_(shrinkage * within.trace() / size)
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors / values.clamp(min=1e-12).sqrt()
    between = whiten.T @ (centres.T @ centres / len(centres)) @ whiten
    _, turned = torch.linalg.eigh(between)
    directions = whiten @ turned.flip(1)[:, :num_directions]
    return mean.float(), directions.T.float().contiguous()


def _blurred_shift(
    layer: Float[Tensor, "batch 12 frames"], lag: int
) -> Float[Tensor, "batch 12 frames"]:
    """What sounds about `lag` frames later, nearer ones counting more."""
    width = max(1, round(lag * _BLUR))
    frames = layer.shape[2]
    padded = torch.nn.functional.pad(layer, (0, lag + width))
    total = padded[:, :, lag : lag + frames].clone()
    for step in range(1, width + 1):
        weight = 1 - step / (width + 1)
        if lag > step:
            total = total + weight * padded[:, :, lag - step : lag - step + frames]
        total = total + weight * padded[:, :, lag + step : lag + step + frames]
    return total
