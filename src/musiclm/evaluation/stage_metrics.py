"""What a token costs without a model: unigram entropies, to print beside validation losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_counts(
    codes: Int[Tensor, "batch quantizers frames"], codebook_size: int
) -> Int[Tensor, "quantizers entries"]:
    """How often each entry of each level's codebook occurs."""
    counts = [level.flatten().bincount(minlength=codebook_size) for level in codes.unbind(dim=1)]
    return torch.stack(counts)


def unigram_entropy_nats(
    codes: Int[Tensor, "batch quantizers frames"], codebook_size: int
) -> Float[Tensor, " quantizers"]:
    """Entropy of each level's own token frequencies: the loss of the best constant guess.

    The frequencies are those of the very tokens scored, so a model must beat an oracle; on few
    tokens the entropy is too low by about `(entries used - 1) / (2 * tokens)`.
    """
    counts = token_counts(codes, codebook_size).double()
    probabilities = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    return -torch.special.xlogy(probabilities, probabilities).sum(dim=1).float()


def unigram_cross_entropy_nats(
    training_counts: Int[Tensor, "quantizers entries"],
    codes: Int[Tensor, "batch quantizers frames"],
) -> Float[Tensor, " quantizers"]:
    """Loss on `codes` of guessing by training frequencies, with one count added to each entry."""
    codebook_size = training_counts.shape[1]
    smoothed = training_counts.double() + 1
    losses = -(smoothed / smoothed.sum(dim=1, keepdim=True)).log()
    counts = token_counts(codes, codebook_size).double()
    return ((counts * losses).sum(dim=1) / counts.sum(dim=1).clamp(min=1)).float()
