"""Decoding: codes sampled from a stage model, frame by frame.

Noise is drawn on the CPU from one generator a sample, in the order of the steps: one seed gives one
piece on every device, in every batch, streamed or whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import PromptError
from musiclm.stages.guidance import contrasted, contrasts, with_copies
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
    guidance_of: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """Other scales for some of the optional segments, by name (`stages.guidance`); each takes the
    work of one more row of the batch where its segment says something."""


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
    start = prepare(
        model,
        segments,
        num_frames,
        batch_size=len(generators),
        sampling=sampling,
        known_target=known_target,
    )
    steps, pattern, size = start.steps, model.pattern, model.layout.target.spec.codebook_size
    cache = model.transformer.new_cache(start.inputs.shape[0], start.num_positions)
    states = model.transformer.prefill(start.inputs, cache)[:, -1]
    for step in range(start.first_step, steps.shape[2]):
        if step > start.first_step:
            inputs = model.embed_step(steps[:, :, step - 1 : step])
            inputs = inputs.repeat(states.shape[0] // inputs.shape[0], 1, 1)
            if start.aligned is not None:
                inputs = inputs + start.aligned[:, step : step + 1]
            states = model.transformer.decode_step(inputs, cache)[:, -1]
        levels = pattern.levels_at(step, num_frames, start.num_known)
        if levels:
            logits = contrasted(model.level_logits(states, levels), start.scales)
            chosen = sample_codes(logits, sampling, generators)
            chosen = chosen + torch.arange(
                levels.start * size, levels.stop * size, size, device=chosen.device
            )
            columns = slice(levels.start, levels.stop) if pattern.num_columns > 1 else slice(None)
            steps[:, columns, step] = chosen
        frame = pattern.completed_frame(step)
        if frame is not None and start.num_known <= frame:
            yield said_codes(model, steps, frame, 1)[:, :, 0]


@dataclass(frozen=True)
class Start:
    """Everything that is settled before the first step, whatever runs the loop."""

    steps: Int[Tensor, "batch columns steps"]
    """Ids of all steps: known ones, and pads to be written over."""
    inputs: Float[Tensor, "rows positions dim"]
    """Embedded prefixes, begin vector and known steps; the last position predicts the first
    unknown step. With guidance the batch comes several times (`stages.guidance`)."""
    aligned: Float[Tensor, "rows steps dim"] | None
    """What is added to the input of each step."""
    scales: tuple[float, ...]
    """Of the copies that follow the batch in `inputs`."""
    first_step: int
    """The first step that is not known."""
    num_known: int
    """Frames that are known."""

    @property
    def first_position(self) -> int:
        """The position of step 0, after the prefixes."""
        return self.inputs.shape[1] - self.first_step - 1

    @property
    def num_positions(self) -> int:
        """Positions of prefixes and steps together."""
        return self.first_position + self.steps.shape[2]


@torch.no_grad()
def prepare(
    model: StageModel,
    segments: Mapping[str, Codes],
    num_frames: int,
    *,
    batch_size: int,
    sampling: SamplingConfig,
    known_target: Codes | None,
) -> Start:
    """Checks a request and embeds what is known.

    Raises:
        ConfigError: The codes do not fit the layout.
        PromptError: The frames or generators asked for make no sense.
    """
    segments = {name: codes.to(model.begin.device) for name, codes in segments.items()}
    _check(model, segments, num_frames, batch_size, known_target)
    num_known = 0 if known_target is None else known_target.shape[2]
    steps = model.pattern.apply(_known_codes(model, batch_size, num_frames, known_target))
    prefixes = model.layout.prefixes
    copies = contrasts(prefixes, segments, sampling.guidance, sampling.guidance_of)
    segments = with_copies(prefixes, segments, copies)
    aligned = model.embed_aligned(segments, steps.shape[2])
    first_step = model.pattern.num_known_steps(num_known)
    known_steps = steps[:, :, :first_step].repeat(1 + len(copies), 1, 1)
    read = model.embed_prefixes(segments)
    inputs = torch.cat([*read, model.step_inputs(known_steps, aligned)], dim=1)
    scales = tuple(copy.scale for copy in copies)
    return Start(steps, inputs, aligned, scales, first_step, num_known)


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
    gumbel = gumbel_noise(logits.shape[1:], generators).to(logits.device, non_blocking=True)
    return torch.add(gumbel, logits, alpha=1 / sampling.temperature).argmax(dim=-1)


def gumbel_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator]
) -> Float[Tensor, "batch ..."]:
    """Gumbel noise of one shape for each generator.

    Drawn for several steps at once it is the same as drawn step by step.
    """
    noise = torch.empty(len(generators), *shape)
    for row, generator in zip(noise, generators, strict=True):
        row.uniform_(generator=generator)  # far cheaper here than exponential_
    return noise.log_().neg_().log_().neg_()


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


def said_codes(model: StageModel, steps: Tensor, first_frame: int, num_frames: int) -> Codes:
    """The codes of frames that are complete."""
    num_quantizers = model.layout.target.spec.num_quantizers
    stride = num_quantizers // model.pattern.num_columns
    start = first_frame * stride
    stop = start + (num_frames - 1) * stride + num_quantizers
    return model.pattern.revert(steps[:, :, start:stop])


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
