"""The pretext of w2v-BERT: what is hidden, and the three losses for guessing it (Chung 2021).

Legend: `batch`, `frames`, `dim`, `distractors` (wrong answers a frame), `codebook` (entries).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from musiclm.core.config import Config


class PretextConfig(Config):
    """Masking and losses; published values."""

    mask_start_probability: float = Field(default=0.065, gt=0, lt=1)
    """Chance of each frame to start a hidden span."""
    mask_span_frames: int = Field(default=10, gt=0)
    """Length of a span; spans may overlap."""
    num_distractors: int = Field(default=100, gt=0)
    """Wrong answers a hidden frame, drawn from the other hidden frames of its clip."""
    similarity_temperature: float = Field(default=0.1, gt=0)
    """Divides the cosines of the contrastive loss."""
    contrastive_weight: float = Field(default=1.0, ge=0)
    """Weight of the contrastive loss."""
    prediction_weight: float = Field(default=1.0, ge=0)
    """Weight of the masked-prediction loss."""
    seen_weight: float = Field(default=0.0, ge=0)
    """Weight of the same loss on frames that were not hidden (Hsu 2021, Sec. 3.1), which teaches
    short runs the codes themselves; w2v-BERT has none."""
    spectrum_weight: float = Field(default=0.0, ge=0)
    """Weight of the squared error of the guessed spectra of all frames, for `targets="spectra"`
    (Li 2023, MERT: constant-Q spectra); w2v-BERT has none."""
    diversity_weight: float = Field(default=0.1, ge=0)
    """Weight of the diversity loss."""


@dataclass(frozen=True)
class GuessOutput:
    """A loss over the hidden frames and how often the guess was right."""

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


def draw_mask(
    batch: int, frames: int, config: PretextConfig, *, generator: torch.Generator
) -> Bool[Tensor, "batch frames"]:
    """Hidden frames: every frame starts a span with a fixed chance (Chung 2021, Sec. 4.2).

    Every clip gets one span at a random place in any case, so that no clip has nothing to guess.
    """
    starts = torch.rand(batch, frames, generator=generator) < config.mask_start_probability
    last_start = max(frames - config.mask_span_frames, 0) + 1
    sure = torch.randint(0, last_start, (batch, 1), generator=generator)
    starts = starts.scatter(1, sure, value=True).float()
    spread = functional.pad(starts[:, None], (config.mask_span_frames - 1, 0))
    return functional.max_pool1d(spread, config.mask_span_frames, stride=1)[:, 0] > 0


def draw_distractors(
    mask: Bool[Tensor, "batch frames"], num_distractors: int, *, generator: torch.Generator
) -> Int[Tensor, "batch frames distractors"]:
    """For each hidden frame, places of other hidden frames of the same clip, with replacement.

    Entries of frames that are not hidden mean nothing. The mask lives on the CPU.
    """
    batch, frames = mask.shape
    hidden_first = (~mask).int().argsort(dim=1, stable=True)
    rank = (mask.cumsum(dim=1) - 1).clamp(min=0)
    others = (mask.sum(dim=1) - 1).clamp(min=1)
    uniform = torch.rand(batch, frames, num_distractors, generator=generator)
    draws = (uniform * others[:, None, None]).long()
    draws = draws + (draws >= rank[..., None])
    draws = draws.clamp(max=frames - 1)
    return hidden_first[:, None].expand(-1, frames, -1).gather(2, draws)


def contrastive_loss(
    context: Float[Tensor, "batch frames dim"],
    targets: Float[Tensor, "batch frames dim"],
    codes: Int[Tensor, "batch frames"],
    mask: Bool[Tensor, "batch frames"],
    distractors: Int[Tensor, "batch frames distractors"],
    *,
    temperature: float,
) -> GuessOutput:
    """Picks the true target of each hidden frame among distractors (Baevski 2020, eq. 3).

    Distractors with the same code as the truth are no distractors and are left out. Runs in
    float32: cosines are divided by a small temperature.
    """
    with torch.autocast(context.device.type, enabled=False):
        left = functional.normalize(context.float(), dim=-1)
        right = functional.normalize(targets.float(), dim=-1)
        similarity = left @ right.transpose(1, 2) / temperature
        right_answer = similarity.diagonal(dim1=1, dim2=2)[..., None]
        wrong_answers = similarity.gather(2, distractors)
        frames = mask.shape[1]
        same = codes[:, None].expand(-1, frames, -1).gather(2, distractors) == codes[..., None]
        wrong_answers = wrong_answers.masked_fill(same, float("-inf"))
        logits = torch.cat([right_answer, wrong_answers], dim=-1)[mask]
        truth = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
        return GuessOutput(
            functional.cross_entropy(logits, truth), (logits.argmax(dim=-1) == 0).float().mean()
        )


def prediction_loss(
    logits: Float[Tensor, "batch frames codebook"],
    codes: Int[Tensor, "batch frames"],
    mask: Bool[Tensor, "batch frames"],
) -> GuessOutput:
    """Cross-entropy of the codes where the mask is set (Chung 2021, Sec. 3.3), in float32."""
    with torch.autocast(logits.device.type, enabled=False):
        guesses, truth = logits[mask].float(), codes[mask]
        count = max(truth.numel(), 1)  # no such frame: no loss
        return GuessOutput(
            functional.cross_entropy(guesses, truth, reduction="sum") / count,
            (guesses.argmax(dim=-1) == truth).float().sum() / count,
        )


def spectrum_loss(
    guess: Float[Tensor, "batch frames bands"],
    truth: Float[Tensor, "batch frames bands"],
    mask: Bool[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """Mean squared error where the mask is set, in float32; 1 is what no knowledge gives."""
    with torch.autocast(guess.device.type, enabled=False):
        squares = (guess.float() - truth.float()).square().mean(dim=-1)
        return (squares * mask).sum() / mask.sum().clamp(min=1)


def diversity_loss(probabilities: Float[Tensor, "batch frames codebook"]) -> Float[Tensor, ""]:
    """Fraction of the codebook that the average choice leaves unused (Baevski 2020, eq. 4)."""
    average = probabilities.mean(dim=(0, 1))
    size = average.shape[0]
    return (size - perplexity(average)) / size


def perplexity(distribution: Float[Tensor, " codebook"]) -> Float[Tensor, ""]:
    """The number of equally likely entries that would be as uncertain."""
    return (-(distribution * (distribution + 1e-9).log()).sum()).exp()


def code_perplexity(codes: Int[Tensor, "*any"], codebook_size: int) -> Float[Tensor, ""]:
    """Perplexity of the codes that were used."""
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).float()
    return perplexity(counts / counts.sum())
