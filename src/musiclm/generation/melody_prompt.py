"""A melody prompt: whatever a microphone gave, trimmed, looked at, and turned into tokens.

A bad melody never stops the music: it is followed as far as it goes or left out, and one warning
says what was found. A token file that has melody tokens gives them as they are.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from musiclm.audio.pitch import PitchTrack, held_tones, track_pitch
from musiclm.audio.waveform import Waveform
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import PromptError
from musiclm.tokens.spec import TokenSpec

Finding = Literal["melody", "silence", "noise", "drums", "speech", "clipped"]
_SILENCE_LEVEL = 1e-3
_TRIM_BELOW = 0.03
_KEPT_SECONDS = 0.1
_QUIET_SHARE = 0.6
_PITCHED_SHARE = 0.4
_CLEAR = 0.8
_LEAST_HELD = 0.3
_LEAST_STEADY = 0.75
_LEAST_HELD_UNSTEADY = 0.55
_STEADY_SEMITONES = 0.5
_STEADY_FRAMES = 5

WARNINGS: dict[Finding, str] = {
    "silence": "The melody is silent: the music is made without it.",
    "noise": "The melody is noise without a pitch: the music is made without it.",
    "drums": "The melody holds strokes without a pitch, such as drums: the music is made without "
    "it.",
    "speech": "The melody sounds like speech: its pitch never rests. The music follows it as far "
    "as it goes.",
    "clipped": "The melody is clipped (recorded too loud): the music follows what is left of it.",
}
_LEFT_OUT: tuple[Finding, ...] = ("silence", "noise", "drums")


@dataclass(frozen=True)
class MelodyPrompt:
    """A melody that was looked at.

    Attributes:
        codes: Melody tokens; None when there is no melody to follow.
        finding: What was found in the audio.
        duration_seconds: How much of it is left without the silence at its ends.
        start_seconds: Where that begins in the recording.
    """

    codes: Int[Tensor, "quantizers frames"] | None
    finding: Finding
    duration_seconds: float
    start_seconds: float

    @property
    def warning(self) -> str:
        """What to tell the user; nothing when all is well."""
        return WARNINGS.get(self.finding, "")


@torch.no_grad()
def read_melody(tokenizer: MelodyTokenizer, waveform: Waveform) -> MelodyPrompt:
    """Trims the silent ends, says what is there, and tokenizes it; any rate and length."""
    track = track_pitch(waveform)
    finding = diagnose(waveform, track)
    if finding in _LEFT_OUT:
        return MelodyPrompt(None, finding, 0.0, 0.0)
    start, count = sounding_part(waveform, track)
    trimmed = waveform.crop(start, count)
    samples = trimmed.resampled(tokenizer.sample_rate_hz).samples
    device = tokenizer.embedder.pitch_out.weight.device
    codes = tokenizer.tokenize(samples[None].to(device))[0].cpu()
    return MelodyPrompt(
        codes if codes.shape[1] else None,
        finding,
        trimmed.duration_seconds,
        start / waveform.sample_rate_hz,
    )


def in_time(
    prompt: MelodyPrompt, spec: TokenSpec, num_frames: int
) -> Int[Tensor, "quantizers frames"] | None:
    """The tune's codes where they lie in the recording; the absent code before and after them."""
    if prompt.codes is None:
        return None
    start = int(prompt.start_seconds * spec.frame_rate_hz)
    codes = prompt.codes[:, : max(num_frames - start, 0)]
    whole = torch.full((spec.num_quantizers, num_frames), spec.codebook_size)
    whole[:, start : start + codes.shape[1]] = codes
    return tune_of(whole, spec)


def tune_of(
    codes: Int[Tensor, "quantizers frames"], spec: TokenSpec
) -> Int[Tensor, "quantizers frames"] | None:
    """The codes themselves when any of their frames holds a tune."""
    return codes if bool((codes < spec.codebook_size).any()) else None


def melody_of_tokens(
    codes: Int[Tensor, "quantizers frames"] | None, spec: TokenSpec, name: str
) -> Int[Tensor, "quantizers frames"]:
    """Melody tokens of a token file from the first frame of the tune to the last one.

    Raises:
        PromptError: The file has none, or they are no codes of this model.
    """
    if codes is None:
        raise PromptError(
            f"{name} holds no melody tokens: nobody heard a tune. Give the recording itself."
        )
    fits = codes.ndim == 2 and codes.shape[0] == spec.num_quantizers
    if not (fits and bool(((codes >= 0) & (codes <= spec.codebook_size)).all())):
        raise PromptError(f"{name} holds melody tokens of another model. Encode the audio again.")
    is_heard = (codes < spec.codebook_size).any(dim=0)
    if not bool(is_heard.any()):
        raise PromptError(f"{name} holds no tune. Give the recording itself.")
    first, last = _ends(is_heard)
    return codes[:, first : last + 1]


def sounding_part(waveform: Waveform, track: PitchTrack) -> tuple[int, int]:
    """The first sample and the length of what lies between the silences at the ends.

    From the first to the last frame that is not silent, with a little air.
    A microphone's noise and knocks count as silence before the first note and after the last: what
    has no pitch there, and is softer than what lies between.
    """
    loud = float(torch.quantile(track.levels, 0.95))
    is_heard = track.levels > max(_TRIM_BELOW * loud, _SILENCE_LEVEL)
    if not bool(is_heard.any()):
        return 0, waveform.num_samples
    first, last = _ends(is_heard)
    is_pitched = is_heard & (track.clarity > _CLEAR)
    is_pitched[1:-1] &= is_pitched[:-2] & is_pitched[2:]  # a single frame may be chance
    low, high = _ends(is_pitched) if bool(is_pitched.any()) else (first, last)
    # Several instruments at once have a common period by chance only: nothing is cut then.
    if float(is_pitched[low : high + 1].float().mean()) > _PITCHED_SHARE:
        softest = _QUIET_SHARE * float(track.levels[low : high + 1].median())
        if low > first and float(track.levels[first:low].median()) < softest:
            first = low
        if high < last and float(track.levels[high + 1 : last + 1].median()) < softest:
            last = high
    rate = waveform.sample_rate_hz
    start = max(first * track.frame_seconds - _KEPT_SECONDS, 0.0)
    stop = (last + 1) * track.frame_seconds + _KEPT_SECONDS
    first_sample = int(start * rate)
    return first_sample, min(int(stop * rate), waveform.num_samples) - first_sample


def _ends(chosen: Tensor) -> tuple[int, int]:
    """The first and the last place that is true."""
    places = chosen.nonzero()[:, 0]
    return int(places[0]), int(places[-1])


def diagnose(waveform: Waveform, track: PitchTrack) -> Finding:
    """What a recording most likely holds, by how loud, periodic and steady it is."""
    samples = waveform.samples
    peak = float(samples.abs().max()) if len(samples) else 0.0
    if peak < _SILENCE_LEVEL or float(torch.quantile(track.levels, 0.95)) < _SILENCE_LEVEL:
        return "silence"
    loud = track.levels > 0.1 * torch.quantile(track.levels, 0.95)
    clear = (track.clarity > _CLEAR) & loud
    share = float(clear.sum() / loud.sum().clamp(min=1))
    if share < 0.25:
        # Several instruments have no common period, but their tones last.
        if held_tones(waveform) > _LEAST_HELD:
            return "melody"
        # Strokes die away: most frames are far below the loudest ones.
        swing = torch.quantile(track.levels, 0.95) / torch.quantile(track.levels, 0.4)
        return "drums" if float(swing) > 3 else "noise"
    # Speech glides. So does the common period of several instruments, but their tones last.
    glides = steady_share(track, clear) < _LEAST_STEADY
    if glides and held_tones(waveform) < _LEAST_HELD_UNSTEADY:
        return "speech"
    return "clipped" if is_clipped(samples) else "melody"


def is_clipped(samples: Float[Tensor, " samples"]) -> bool:
    """Whether the wave is cut off at its peak, at whatever level it was stored afterwards.

    A wave that only touches its peak, as a sine does, is about as often just below it.
    """
    size = samples.abs() / samples.abs().max().clamp(min=1e-9)
    at_peak = float((size > 0.995).float().mean())
    just_below = float(((size > 0.985) & (size <= 0.995)).float().mean())
    return at_peak > 0.01 and at_peak > 3 * just_below


def steady_share(track: PitchTrack, clear: Tensor) -> float:
    """Share of the clear frames that lie in stretches of 0.1 s of one pitch: notes are held."""
    if len(clear) < _STEADY_FRAMES:
        return 0.0
    windows = track.pitches.unfold(0, _STEADY_FRAMES, 1)
    spread = windows.amax(dim=1) - windows.amin(dim=1)
    is_note = (spread < _STEADY_SEMITONES) & clear.unfold(0, _STEADY_FRAMES, 1).all(dim=1)
    covered = torch.zeros(len(clear), dtype=torch.bool)
    for offset in range(_STEADY_FRAMES):
        covered[offset : offset + len(is_note)] |= is_note
    return float((covered & clear).sum() / clear.sum().clamp(min=1))
