"""The spectral codec's synthesis: a fixed bank of oscillators plus filtered noise.

The synthesis carries phase by itself (it is a function of the frame's number alone), so no bits
are spent on it. Both parts are products with small matrices and can be run piece by piece.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.core.runtime import RandomStreams


class SynthesisConfig(Config):
    """The oscillators and the noise."""

    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Samples per second."""
    hop_length: int = Field(default=480, gt=0)
    """Samples per frame."""
    lowest_hz: float = Field(default=27.5, gt=0)
    """First oscillator: A0, the lowest key of a piano."""
    highest_hz: float = Field(default=11_800.0, gt=0)
    """No oscillator lies above."""
    oscillators_per_octave: int = Field(default=48, gt=0)
    """48 is a quarter of a semitone."""
    amplitudes_per_frame: int = Field(default=2, gt=0)
    """Oscillator amplitudes are given this often and are linear in between."""
    noise_bands: int = Field(default=64, gt=1)
    """Bands of noise, evenly spaced from 0 to half the sample rate."""
    noise_gains_per_frame: int = Field(default=4, gt=0)
    """Noise gains are given this often."""
    noise_table_length: int = Field(default=4096, gt=0)
    """Different noise spectra before they repeat."""
    seed: int = 0
    """Of the starting phases and of the noise."""

    @model_validator(mode="after")
    def _check(self) -> "SynthesisConfig":
        if (
            self.hop_length % self.amplitudes_per_frame
            or self.hop_length % self.noise_gains_per_frame
        ):
            raise ValueError("hop_length must be a multiple of the gains per frame")
        if not self.lowest_hz < self.highest_hz < self.sample_rate_hz / 2:
            raise ValueError("lowest_hz < highest_hz < sample_rate_hz / 2 is required")
        return self

    @property
    def num_oscillators(self) -> int:
        """How many oscillators there are."""
        octaves = math.log2(self.highest_hz / self.lowest_hz)
        return math.floor(octaves * self.oscillators_per_octave) + 1

    @property
    def num_outputs(self) -> int:
        """Numbers that one frame of synthesis needs."""
        return (
            self.num_oscillators * self.amplitudes_per_frame
            + self.noise_bands * self.noise_gains_per_frame
        )


@dataclass(frozen=True)
class SynthesisState:
    """What the synthesis carries from one piece to the next.

    Attributes:
        frame: Number of the next frame, for each example.
        amplitudes: The last oscillator amplitudes.
        tail: Noise begun and not complete.
    """

    frame: Int[Tensor, " batch"]
    amplitudes: Float[Tensor, "batch oscillators"]
    tail: Float[Tensor, "batch tail"]


class OscillatorBank(nn.Module):
    """Sinusoids at fixed frequencies whose amplitudes are linear between given points."""

    def __init__(self, config: SynthesisConfig) -> None:
        super().__init__()
        self.config = config
        self.step = config.hop_length // config.amplitudes_per_frame
        numbers = torch.arange(config.num_oscillators, dtype=torch.float64)
        frequencies = config.lowest_hz * 2 ** (numbers / config.oscillators_per_octave)
        self._cycles_per_sample = frequencies / config.sample_rate_hz
        generator = RandomStreams(config.seed).generator("oscillator phases")
        self._phase_cycles = torch.rand(len(numbers), generator=generator, dtype=torch.float64)
        angles = 2 * math.pi * self._cycles_per_sample[:, None] * torch.arange(self.step)
        rising = torch.arange(self.step) / self.step
        waves = torch.cat([angles.cos(), -angles.sin()])
        table = torch.cat([waves * (1 - rising), waves * rising]).float()
        self.register_buffer("table", table, persistent=False)

    def forward(
        self,
        amplitudes: Float[Tensor, "batch points oscillators"],
        before: Float[Tensor, "batch oscillators"],
        first_point: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch samples"]:
        """Sums the oscillators; amplitudes are reached at the end of each step.

        Args:
            amplitudes: The points, `hop_length / amplitudes_per_frame` samples apart.
            before: The amplitudes at the start.
            first_point: Number of the first point since the audio began, which sets the phases.
        """
        points = first_point.cpu()[:, None] + torch.arange(amplitudes.shape[1])
        # Float64: after an hour the phase is still exact to a millionth of a cycle.
        cycles = points[..., None] * self.step * self._cycles_per_sample + self._phase_cycles
        angles = 2 * math.pi * (cycles % 1.0)
        cosine, sine = angles.cos().to(amplitudes), angles.sin().to(amplitudes)
        start = torch.cat([before[:, None], amplitudes[:, :-1]], dim=1)
        weights = torch.cat(
            [start * cosine, start * sine, amplitudes * cosine, amplitudes * sine], dim=-1
        )
        return rearrange(
            weights @ self.get_buffer("table"), "batch points step -> batch (points step)"
        )


class NoiseBank(nn.Module):
    """White noise shaped in frequency and time by gains; the noise itself is a fixed table."""

    def __init__(self, config: SynthesisConfig) -> None:
        super().__init__()
        self.config = config
        self.step = config.hop_length // config.noise_gains_per_frame
        window_length = 2 * self.step
        num_bins = self.step + 1
        generator = RandomStreams(config.seed).generator("noise")
        self._phases = (
            2 * math.pi * torch.rand(config.noise_table_length, num_bins, generator=generator)
        )
        eye = torch.eye(num_bins, dtype=torch.complex64)
        window = torch.sin(math.pi * (torch.arange(window_length) + 0.5) / window_length)
        basis = torch.fft.irfft(torch.cat([eye, 1j * eye]), window_length, norm="ortho")
        self.register_buffer("basis", basis * window, persistent=False)
        position = torch.linspace(0, config.noise_bands - 1, num_bins)
        nearness = 1 - (position[None, :] - torch.arange(config.noise_bands)[:, None]).abs()
        self.register_buffer("bands_to_bins", nearness.clamp(min=0), persistent=False)

    def forward(
        self,
        gains: Float[Tensor, "batch points bands"],
        tail: Float[Tensor, "batch tail"],
        first_point: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch tail"]]:
        """Shaped noise, and the tail that the next piece completes.

        A gain of 1 in every band is noise of RMS 1. The gain of a point is at its full weight at
        the end of the point's step.
        """
        points = first_point.cpu()[:, None] + torch.arange(gains.shape[1])
        phases = self._phases[points % self.config.noise_table_length]
        shape = gains @ self.get_buffer("bands_to_bins")
        spectrum = torch.cat(
            [shape * phases.cos().to(gains), shape * phases.sin().to(gains)], dim=-1
        )
        pieces = spectrum @ self.get_buffer("basis")
        begun, ended = pieces[..., : self.step], pieces[..., self.step :]
        overlapped = begun + torch.cat([tail[:, None], ended[:, :-1]], dim=1)
        return rearrange(overlapped, "batch points step -> batch (points step)"), ended[:, -1]


class Synthesis(nn.Module):
    """Oscillators plus noise, from the numbers a decoder network gives."""

    def __init__(self, config: SynthesisConfig) -> None:
        super().__init__()
        self.config = config
        self.oscillators = OscillatorBank(config)
        self.noise = NoiseBank(config)

    def initial_state(
        self, like: Float[Tensor, "batch ..."], first_frame: Int[Tensor, " batch"] | None = None
    ) -> SynthesisState:
        """Silence before `first_frame` (0 by default; training draws it)."""
        batch = like.shape[0]
        frame = torch.zeros(batch, dtype=torch.int64) if first_frame is None else first_frame
        return SynthesisState(
            frame,
            like.new_zeros(batch, self.config.num_oscillators),
            like.new_zeros(batch, self.noise.step),
        )

    def stream(
        self, controls: Float[Tensor, "batch frames outputs"], state: SynthesisState
    ) -> tuple[Float[Tensor, "batch samples"], SynthesisState]:
        """Sounds the next frames; `controls` are log amplitudes and log gains.

        Runs in float32 whatever the autocast mode: a sum of 400 oscillators in half precision
        is audible noise.
        """
        config = self.config
        with torch.autocast(controls.device.type, enabled=False):
            split = config.num_oscillators * config.amplitudes_per_frame
            loudness = rearrange(
                controls[..., :split].float(),
                "batch frames (points oscillators) -> batch (frames points) oscillators",
                points=config.amplitudes_per_frame,
            )
            colour = rearrange(
                controls[..., split:].float(),
                "batch frames (points bands) -> batch (frames points) bands",
                points=config.noise_gains_per_frame,
            )
            amplitudes = loudness.clamp(max=1.0).exp()
            gains = colour.clamp(max=2.0).exp()
            tones = self.oscillators(
                amplitudes, state.amplitudes, state.frame * config.amplitudes_per_frame
            )
            hiss, tail = self.noise(gains, state.tail, state.frame * config.noise_gains_per_frame)
        following = state.frame + controls.shape[1]
        return tones + hiss, SynthesisState(following, amplitudes[:, -1], tail)
