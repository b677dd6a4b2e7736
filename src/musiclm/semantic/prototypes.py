"""Prototype quantizer: fixed spectral prototypes choose the codes, their entries are learned.

A learned quantizer (`semantic/gumbel.py`) needs a long run: in a short one it makes its targets
easy before the model learns to guess them. Here the choice is settled before training, by k-means
of spectra, as in HuBERT's first round (Hsu 2021); nothing can collapse.

Legend: `batch`, `frames`, `bands` (of the spectra), `codebook` (entries), `codebook_dim`.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.errors import ConfigError
from musiclm.semantic.gumbel import QuantizerTargets

_SMALLEST_DEVIATION = 1e-3


class PrototypeQuantizer(nn.Module):
    """Gives each frame the code of the nearest prototype spectrum."""

    def __init__(self, num_bands: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codebook_size, codebook_dim))
        self.register_buffer("mean", torch.zeros(num_bands))
        self.register_buffer("deviation", torch.ones(num_bands))
        self.register_buffer("prototypes", torch.zeros(codebook_size, num_bands))
        self.register_buffer("is_started", torch.tensor(False))

    @torch.no_grad()
    def start(
        self,
        spectra: Float[Tensor, "frames bands"],
        *,
        generator: torch.Generator,
        num_rounds: int = 12,
    ) -> None:
        """Sets the prototypes to k-means centroids of standardised spectra.

        Entries start as random projections of their prototypes: near ones look alike.
        """
        size, codebook_dim = self.codebook.shape
        mean, deviation = spectra.mean(dim=0), spectra.std(dim=0).clamp(min=_SMALLEST_DEVIATION)
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("deviation").copy_(deviation)
        frames = (spectra - mean) / deviation
        draws = torch.randperm(len(frames), generator=generator)[:size]
        if len(draws) < size:
            draws = torch.randint(0, len(frames), (size,), generator=generator)
        prototypes = frames[draws.to(frames.device)]
        for _ in range(num_rounds):
            codes = _nearest(frames, prototypes)
            sums = torch.zeros_like(prototypes).index_add_(0, codes, frames)
            counts = torch.bincount(codes, minlength=size)[:, None]
            prototypes = torch.where(counts > 0, sums / counts.clamp(min=1), prototypes)
        self.get_buffer("prototypes").copy_(prototypes)
        projection = torch.randn(frames.shape[1], codebook_dim, generator=generator)
        self.codebook.copy_(prototypes @ projection.to(frames) / math.sqrt(frames.shape[1]))
        self.get_buffer("is_started").fill_(True)

    def standardise(
        self, spectra: Float[Tensor, "batch frames bands"]
    ) -> Float[Tensor, "batch frames bands"]:
        """Spectra with the mean and deviation of those the prototypes come from."""
        return (spectra.float() - self.get_buffer("mean")) / self.get_buffer("deviation")

    def forward(self, spectra: Float[Tensor, "batch frames bands"]) -> QuantizerTargets:
        """Codes and entries of each frame, in float32.

        Raises:
            ConfigError: The prototypes were never set.
        """
        if not bool(self.get_buffer("is_started")):
            raise ConfigError("Spectral targets need W2vBert.start_targets before training.")
        with torch.autocast(spectra.device.type, enabled=False):
            frames = self.standardise(spectra)
            codes = _nearest(frames, self.get_buffer("prototypes"))
            chosen = functional.one_hot(codes, self.codebook.shape[0]).to(frames.dtype)
            return QuantizerTargets(vectors=self.codebook[codes], codes=codes, probabilities=chosen)


def _nearest(
    frames: Float[Tensor, "*any bands"], prototypes: Float[Tensor, "codebook bands"]
) -> Int[Tensor, "*any"]:
    return (frames @ prototypes.T - 0.5 * prototypes.square().sum(dim=-1)).argmax(dim=-1)
