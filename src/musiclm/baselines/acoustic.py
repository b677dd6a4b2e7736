"""Acoustic tokens from whatever a coarse stage reads: for the ablation and the token study.

The cascade (`generation/cascade.py`) always begins with semantic tokens; here they may be given, or
absent because the stage was trained without them. Windows as there: half overlapping for the coarse
stage, side by side for the fine one.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from musiclm.core.runtime import RandomStreams
from musiclm.generation.prompt import GenerationSettings
from musiclm.stages.decoder import Decoder
from musiclm.stages.decoding import SamplingConfig
from musiclm.stages.extension import absent_codes

_MAX_FINE_ROWS = 32


def acoustic_codes(
    coarse: Decoder,
    fine: Decoder,
    segments: Mapping[str, Int[Tensor, "batch _ _"]],
    num_frames: int,
    settings: GenerationSettings,
    streams: Sequence[RandomStreams],
) -> Int[Tensor, "batch quantizers frames"]:
    """The levels of acoustic codes that the settings ask for, or all.

    Args:
        coarse: Of the stage that reads `segments`.
        fine: Of the stage that reads the coarse codes; it rests where no level of it is asked for.
        segments: Codes by name, such as conditioning and semantic tokens; optional ones may lack.
        num_frames: Acoustic frames of the result.
        settings: Temperatures, guidance and levels.
        streams: Random streams, one a sample.

    Raises:
        ConfigError: The coarse stage reads something that is not given.
    """
    first = coarse_codes(coarse, segments, num_frames, settings, streams)
    if settings.num_levels is not None and settings.num_levels <= first.shape[1]:
        return first[:, : settings.num_levels]
    both = torch.cat([first, fine_codes(fine, first, settings, streams)], dim=1)
    return both[:, : settings.num_levels]


def coarse_codes(
    decoder: Decoder,
    segments: Mapping[str, Int[Tensor, "batch _ _"]],
    num_frames: int,
    settings: GenerationSettings,
    streams: Sequence[RandomStreams],
) -> Int[Tensor, "batch coarse frames"]:
    """Coarse codes, window by window; each begins with the second half of the one before."""
    stage = decoder.model
    rate = stage.layout.target.spec.frame_rate_hz
    rates = [segment.spec.frame_rate_hz for segment in stage.layout.prefixes]
    grid = max((rate // slower for slower in rates if slower), default=1)
    half = max(1, int(stage.config.window_seconds * rate) // (2 * grid)) * grid
    sampling = SamplingConfig(
        temperature=settings.decided_temperatures.coarse, guidance=settings.guidance_of("coarse")
    )
    given = {**absent_codes(stage.layout, len(streams), num_frames), **segments}
    done: Tensor | None = None
    for number, start in enumerate(range(0, max(num_frames - half, 1), half)):
        stop = min(start + 2 * half, num_frames)
        cut = {
            segment.name: _cut(given[segment.name], start, stop, rate, segment.spec.frame_rate_hz)
            for segment in stage.layout.prefixes
            if segment.name in given
        }
        blocks = decoder.blocks(
            cut,
            stop - start,
            sampling=sampling,
            generators=[stream.generator("coarse", number) for stream in streams],
            known_target=None if done is None else done[:, :, start:],
        )
        codes = torch.cat([block.cpu() for block in blocks], dim=2)
        done = codes if done is None else torch.cat([done, codes], dim=2)
    assert done is not None
    return done


def fine_codes(
    decoder: Decoder,
    coarse: Int[Tensor, "batch coarse frames"],
    settings: GenerationSettings,
    streams: Sequence[RandomStreams],
) -> Int[Tensor, "batch fine frames"]:
    """The remaining levels, windows side by side in batches (AudioLM, Section III-C)."""
    num_frames = coarse.shape[2]
    stage = decoder.model
    rate = stage.layout.target.spec.frame_rate_hz
    window = min(int(stage.config.window_seconds * rate), num_frames)
    num_windows = -(-num_frames // window)
    missing = num_windows * window - num_frames
    padded = functional.pad(coarse.float(), (0, missing), mode="replicate").long()
    rows = padded.unflatten(2, (num_windows, window)).transpose(1, 2).flatten(0, 1)
    generators = [s.generator("fine", number) for s in streams for number in range(num_windows)]
    sampling = SamplingConfig(temperature=settings.decided_temperatures.fine)
    made: list[Tensor] = []
    for first in range(0, len(rows), _MAX_FINE_ROWS):
        blocks = decoder.blocks(
            {"coarse": rows[first : first + _MAX_FINE_ROWS]},
            window,
            sampling=sampling,
            generators=generators[first : first + _MAX_FINE_ROWS],
        )
        made.append(torch.cat([block.cpu() for block in blocks], dim=2))
    fine = torch.cat(made).unflatten(0, (len(streams), num_windows))
    return fine.transpose(1, 2).flatten(2, 3)[:, :, :num_frames]


def _cut(codes: Tensor, start: int, stop: int, target_rate_hz: int, rate_hz: int) -> Tensor:
    """The frames that cover target frames `start` to `stop`; all of a rateless segment."""
    if not rate_hz:
        return codes
    return codes[:, :, start * rate_hz // target_rate_hz : -(-stop * rate_hz // target_rate_hz)]
