"""Decoding: codes sampled from a stage model, frame by frame.

Noise is drawn on the CPU from one generator a sample, in the order of the steps: one seed gives one
piece on every device, in every batch, streamed or whole.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import PromptError
from musiclm.layers.attention import KVCache
from musiclm.stages.language_model import Codes, StageModel

FrameCodes = Int[Tensor, "batch quantizers"]


class SamplingConfig(Config):
    """How a code is chosen from its logits."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Divides the logits; 0 takes the likeliest code. The paper: 1.0 semantic, 0.95 coarse, 0.4
    fine (Section 4.2)."""
    top_k: int | None = Field(default=None, gt=0)
    """Only the likeliest `top_k` codes of a level may be chosen; all when absent, as the paper."""
    guidance: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Logits move from those without the optional segments (0) to those with them (1) and beyond;
    other values than 1 double the work of a step. The paper states none."""


def generate(
    model: StageModel,
    segments: Mapping[str, Codes],
    num_frames: int,
    *,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    known_target: Codes | None = None,
) -> Codes:
    """Samples the target codes of a stage.

    Args:
        model: The stage, in eval mode.
        segments: Codes of its prefixes, by name.
        num_frames: Frames of the result, known ones included.
        sampling: Temperature and the like.
        generators: One CPU generator a sample.
        known_target: First frames of the target to continue; they are kept.

    Raises:
        ConfigError: The codes do not fit the layout.
        PromptError: The frames or generators asked for make no sense.
    """
    frames = generate_frames(
        model,
        segments,
        num_frames,
        sampling=sampling,
        generators=generators,
        known_target=known_target,
    )
    known = [] if known_target is None else [known_target.to(model.begin.device)]
    new = list(frames)
    return torch.cat([*known, *([torch.stack(new, dim=2)] if new else [])], dim=2)


@torch.inference_mode()
def generate_frames(
    model: StageModel,
    segments: Mapping[str, Codes],
    num_frames: int,
    *,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    known_target: Codes | None = None,
) -> Iterator[FrameCodes]:
    """As `generate`, giving each new frame as soon as its last code is chosen."""
    batch_size = len(generators)
    segments = {name: codes.to(model.begin.device) for name, codes in segments.items()}
    _check(model, segments, num_frames, batch_size, known_target)
    pattern = model.pattern
    num_known = 0 if known_target is None else known_target.shape[2]
    steps = pattern.apply(_known_codes(model, batch_size, num_frames, known_target))
    if sampling.guidance != 1:
        segments = _with_absent(model, segments)
    aligned = model.embed_aligned(segments, steps.shape[2])
    first_step = pattern.num_known_steps(num_known)
    states, cache = _prefill(model, segments, aligned, steps[:, :, :first_step], steps.shape[2])
    size = model.layout.target.spec.codebook_size
    for step in range(first_step, steps.shape[2]):
        if step > first_step:
            inputs = model.embed_step(steps[:, :, step - 1 : step])
            inputs = inputs.repeat(states.shape[0] // batch_size, 1, 1)
            if aligned is not None:
                inputs = inputs + aligned[:, step : step + 1]
            states = model.transformer.decode_step(inputs, cache)[:, -1]
        levels = pattern.levels_at(step, num_frames, num_known)
        if levels:
            chosen = _choose(model.level_logits(states, levels), sampling, generators)
            chosen = chosen + torch.arange(
                levels.start * size, levels.stop * size, size, device=chosen.device
            )
            columns = slice(levels.start, levels.stop) if pattern.num_columns > 1 else slice(None)
            steps[:, columns, step] = chosen
        frame = pattern.completed_frame(step)
        if frame is not None and num_known <= frame:
            yield _frame_codes(model, steps, frame)


def sample_codes(
    logits: Float[Tensor, "batch levels entries"],
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
) -> Int[Tensor, "batch levels"]:
    """Chooses a code a level: the largest of logits / temperature plus Gumbel noise.

    Args:
        logits: Float32 logits.
        sampling: Temperature and `top_k`.
        generators: One CPU generator a sample; untouched at temperature 0.
    """
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    noise = torch.empty(logits.shape)
    for row, generator in zip(noise, generators, strict=True):
        row.uniform_(generator=generator)  # far cheaper here than exponential_
    gumbel = noise.log_().neg_().log_().neg_().to(logits.device, non_blocking=True)
    return torch.add(gumbel, logits, alpha=1 / sampling.temperature).argmax(dim=-1)


def _choose(
    logits: Tensor, sampling: SamplingConfig, generators: Sequence[torch.Generator]
) -> Tensor:
    if sampling.guidance != 1:
        given, absent = logits.chunk(2)
        logits = torch.lerp(absent, given, sampling.guidance)
    return sample_codes(logits, sampling, generators)


def _prefill(
    model: StageModel,
    segments: Mapping[str, Codes],
    aligned: Tensor | None,
    known_steps: Tensor,
    num_steps: int,
) -> tuple[Tensor, KVCache]:
    """Reads prefixes and known steps; gives the state that predicts the first unknown step."""
    prefixes = model.embed_prefixes(segments)
    given = next(iter(segments.values())).shape[0]
    known_steps = known_steps.repeat(given // known_steps.shape[0], 1, 1)
    inputs = torch.cat([*prefixes, model.step_inputs(known_steps, aligned)], dim=1)
    num_prefix = inputs.shape[1] - known_steps.shape[2] - 1
    cache = model.transformer.new_cache(given, num_prefix + num_steps)
    return model.transformer.prefill(inputs, cache)[:, -1], cache


def _known_codes(
    model: StageModel, batch_size: int, num_frames: int, known_target: Tensor | None
) -> Tensor:
    """Target codes: known ones first, absent ones after."""
    segment = model.layout.target
    codes = torch.full(
        (batch_size, segment.spec.num_quantizers, num_frames),
        segment.absent_code,
        device=model.begin.device,
    )
    if known_target is not None:
        codes[:, :, : known_target.shape[2]] = known_target
    return codes


def _with_absent(model: StageModel, segments: Mapping[str, Codes]) -> Mapping[str, Codes]:
    """The batch twice: as it is, and with every optional segment absent."""
    doubled: dict[str, Codes] = {}
    for segment in model.layout.prefixes:
        codes = segments[segment.name]
        other = torch.full_like(codes, segment.absent_code) if segment.is_optional else codes
        doubled[segment.name] = torch.cat([codes, other])
    return doubled


def _frame_codes(model: StageModel, steps: Tensor, frame: int) -> FrameCodes:
    """The codes of one complete frame."""
    num_quantizers = model.layout.target.spec.num_quantizers
    start = frame * num_quantizers // model.pattern.num_columns
    return model.pattern.revert(steps[:, :, start : start + num_quantizers])[:, :, 0]


def _check(
    model: StageModel,
    segments: Mapping[str, Codes],
    num_frames: int,
    batch_size: int,
    known_target: Codes | None,
) -> None:
    model.check_codes(segments, model.layout.prefixes)
    for name, codes in segments.items():
        if codes.shape[0] != batch_size:
            raise PromptError(
                f"{codes.shape[0]} samples of {name!r} codes but {batch_size} generators: "
                "give one generator a sample."
            )
    num_known = 0
    if known_target is not None:
        model.check_codes({model.layout.target.name: known_target}, (model.layout.target,))
        num_known = known_target.shape[2]
        if known_target.shape[0] != batch_size:
            raise PromptError(
                f"{known_target.shape[0]} pieces to continue but {batch_size} generators: "
                "give one generator a sample."
            )
    if num_frames < max(1, num_known):
        raise PromptError(
            f"{num_frames} frames were asked for; ask for at least 1, and for no fewer than the "
            f"{num_known} known ones."
        )
