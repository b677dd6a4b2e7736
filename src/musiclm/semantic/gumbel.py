"""Gumbel quantizer: one learned code a frame, the targets of w2v-BERT (Baevski 2020, Sec. 2).

Legend: `batch`, `frames`, `dim` (features), `codebook` (entries), `codebook_dim` (their width).
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class QuantizerTargets:
    """What the quantizer says of each frame.

    Attributes:
        vectors: Chosen entries; gradients pass through the softened choice.
        codes: The likeliest entry of each frame, without noise: the ids to predict.
        probabilities: Softmax of the logits without noise, for the diversity loss.
    """

    vectors: Float[Tensor, "batch frames codebook_dim"]
    codes: Int[Tensor, "batch frames"]
    probabilities: Float[Tensor, "batch frames codebook"]


class GumbelQuantizer(nn.Module):
    """Chooses a codebook entry a frame with a straight-through Gumbel softmax.

    Features are first standardised per dimension over the batch (running figures in evaluation),
    as random-projection quantizers do (Chiu 2022), and entries start as frames of the first batch,
    so that the codebook is in use from the first step.

    Computes in float32 whatever the autocast mode: a choice among near-equal logits must not
    hang on their eighth bit.
    """

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        # Frames of music share much: without this their likeliest entries would be the same few.
        self.standardise = nn.BatchNorm1d(dim, affine=False)
        self.logits = nn.Linear(dim, codebook_size)
        self.codebook = nn.Parameter(torch.randn(codebook_size, codebook_dim))
        self.register_buffer("is_started", torch.tensor(False))

    def forward(
        self,
        features: Float[Tensor, "batch frames dim"],
        *,
        temperature: float,
        generator: torch.Generator | None,
    ) -> QuantizerTargets:
        """Quantizes each frame.

        Args:
            features: Unmasked features.
            temperature: Of the softened choice that gradients see; low is hard.
            generator: Draws the Gumbel noise; without one the likeliest entry is taken.
        """
        with torch.autocast(features.device.type, enabled=False):
            flat = rearrange(features.float(), "batch frames dim -> (batch frames) dim")
            standard = self.standardise(flat).unflatten(0, features.shape[:2])
            if self.training and not bool(self.get_buffer("is_started")):
                self._start(standard.detach().flatten(0, 1), generator)
            logits = self.logits(standard)
            noisy = logits
            if generator is not None:
                uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
                noisy = logits - (-uniform.log()).log().to(logits.device)
            soft = (noisy / temperature).softmax(dim=-1)
            hard = functional.one_hot(noisy.argmax(dim=-1), logits.shape[-1]).to(soft.dtype)
            choice = hard + soft - soft.detach()
            return QuantizerTargets(
                vectors=choice @ self.codebook,
                codes=logits.argmax(dim=-1),
                probabilities=logits.softmax(dim=-1),
            )

    @torch.no_grad()
    def _start(
        self, frames: Float[Tensor, "frames dim"], generator: torch.Generator | None
    ) -> None:
        """Makes each entry the neighbourhood of a frame drawn from the first batch.

        Logits become `centre . frame - |centre|^2 / 2`, so that the likeliest entry is the nearest
        frame; entries become random projections of their frames, so that near ones look alike.
        """
        size, codebook_dim = self.codebook.shape
        draws = torch.randint(0, frames.shape[0], (size,), generator=generator)
        centres = frames[draws.to(frames.device)]
        projection = torch.randn(frames.shape[1], codebook_dim, generator=generator)
        self.logits.weight.copy_(centres)
        self.logits.bias.copy_(-0.5 * centres.square().sum(dim=1))
        self.codebook.copy_(centres @ projection.to(centres) / math.sqrt(frames.shape[1]))
        self.get_buffer("is_started").fill_(True)
