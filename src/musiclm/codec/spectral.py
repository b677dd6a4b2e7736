"""The spectral backbone: log magnitudes in, ConvNeXt blocks at the frame rate, synthesis out.

Causal: a frame's latents depend on samples up to `lookahead_samples` after the frame's end, and the
audio of a frame on latents up to that frame. The defaults are the bundled model's.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.codec.synthesis import Synthesis, SynthesisConfig, SynthesisState
from musiclm.core.config import Config
from musiclm.layers.convolution import CausalConv1d, ConvNextBlock, ConvState


class AnalysisWindow(Config):
    """One short-time spectrum of the input, as log magnitudes."""

    window_length: int = Field(gt=0)
    """Samples of the window and of the transform."""
    fall_length: int = Field(gt=0)
    """The window rises over the rest and falls over these last samples: its weight lies late."""
    low_hz: float = Field(default=0.0, ge=0)
    """Bins below are left out."""
    high_hz: float = Field(default=12_000.0, gt=0)
    """Bins above are left out."""
    per_frame: int = Field(default=1, gt=0)
    """Spectra in a frame, evenly spaced, the last at the frame's end."""


class SpectralConfig(Config):
    """The spectral backbone."""

    windows: tuple[AnalysisWindow, ...] = (
        AnalysisWindow(window_length=4096, fall_length=960, high_hz=3_000.0),
        AnalysisWindow(window_length=2048, fall_length=960, low_hz=1_000.0),
        AnalysisWindow(window_length=480, fall_length=240, per_frame=2),
    )
    """Long windows tell pitch, short ones tell time."""
    lookahead_samples: int = Field(default=480, ge=0)
    """How far past its end a frame's encoder hears: the latency of encoding beyond the frame."""
    magnitude_floor: float = Field(default=1e-5, gt=0)
    """Added to amplitudes before the logarithm."""
    latent_dim: int = Field(default=128, gt=0)
    """Width of the latents; equals the quantizer's `codebook_dim`."""
    encoder_dim: int = Field(default=256, gt=0)
    """Width of the encoder."""
    encoder_blocks: int = Field(default=6, ge=0)
    """ConvNeXt blocks of the encoder."""
    decoder_dim: int = Field(default=320, gt=0)
    """Width of the decoder."""
    decoder_blocks: int = Field(default=6, ge=0)
    """ConvNeXt blocks of the decoder."""
    expansion: int = Field(default=3, gt=0)
    """Inner width of a block over its width."""
    kernel_size: int = Field(default=7, gt=0)
    """Frames each block sees."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """Oscillators and noise."""

    @model_validator(mode="after")
    def _check(self) -> "SpectralConfig":
        if not self.windows:
            raise ValueError("at least one analysis window is required")
        if self.longest_window < self.hop_length + self.lookahead_samples:
            raise ValueError("the longest window must cover a frame and the lookahead")
        return self

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.synthesis.hop_length

    @property
    def longest_window(self) -> int:
        """Samples a frame's analysis needs."""
        step = self.hop_length
        return max(
            window.window_length + step - step // window.per_frame for window in self.windows
        )


@dataclass(frozen=True)
class SpectralEncoderState:
    """Samples that later frames still need, and the state of each block."""

    samples: Float[Tensor, "batch samples"]
    blocks: tuple[ConvState, ...]


@dataclass(frozen=True)
class SpectralDecoderState:
    """The state of the first convolution and of each block, and of the synthesis."""

    entry: ConvState
    blocks: tuple[ConvState, ...]
    synthesis: SynthesisState


class LogSpectra(nn.Module):
    """Log magnitudes of the last samples of a piece, one row of features a frame."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.num_features = 0
        for index, window in enumerate(config.windows):
            self.register_buffer(f"window_{index}", _late_window(window), persistent=False)
            low, high = self._bins(window)
            self.num_features += (high - low) * window.per_frame

    def forward(
        self, pieces: Float[Tensor, "batch frames samples"]
    ) -> Float[Tensor, "batch frames features"]:
        """Features of pieces of `longest_window` samples, in float32."""
        features: list[Tensor] = []
        for index, window in enumerate(self.config.windows):
            low, high = self._bins(window)
            for place in range(window.per_frame):
                back = self.config.hop_length * (window.per_frame - 1 - place) // window.per_frame
                end = pieces.shape[-1] - back
                part = pieces[..., end - window.window_length : end]
                spectrum = torch.fft.rfft(part * self.get_buffer(f"window_{index}"))[..., low:high]
                power = spectrum.real.square() + spectrum.imag.square()
                floor = self.config.magnitude_floor
                features.append(0.5 * (power + floor**2).log())
        return (torch.cat(features, dim=-1) + 7.0) / 2.5  # roughly zero mean, unit variance

    def _bins(self, window: AnalysisWindow) -> tuple[int, int]:
        width_hz = self.config.synthesis.sample_rate_hz / window.window_length
        last = window.window_length // 2
        return math.ceil(window.low_hz / width_hz), min(int(window.high_hz / width_hz), last) + 1


class SpectralEncoder(nn.Module):
    """Samples to latents."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.spectra = LogSpectra(config)
        self.entry = nn.Linear(self.spectra.num_features, config.encoder_dim)
        self.blocks = nn.ModuleList(
            ConvNextBlock(
                config.encoder_dim, kernel_size=config.kernel_size, expansion=config.expansion
            )
            for _ in range(config.encoder_blocks)
        )
        self.exit = nn.Linear(config.encoder_dim, config.latent_dim)
        self.shortcut: Tensor
        self.register_buffer("shortcut", torch.zeros(self.spectra.num_features, config.latent_dim))

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> SpectralEncoderState:
        """Silence before the audio."""
        config = self.config
        context = config.longest_window - config.hop_length - config.lookahead_samples
        channels = like.new_zeros(like.shape[0], config.encoder_dim, 0)
        return SpectralEncoderState(
            like.new_zeros(like.shape[0], context),
            tuple(block.initial_state(channels) for block in _blocks(self.blocks)),
        )

    def forward(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        """Latents of whole audio; a last incomplete frame is filled with silence."""
        return self.stream(samples, self.initial_state(samples), is_last=True)[0]

    def stream(
        self,
        samples: Float[Tensor, "batch samples"],
        state: SpectralEncoderState,
        *,
        is_last: bool = False,
    ) -> tuple[Float[Tensor, "batch dim frames"], SpectralEncoderState]:
        """Latents of the frames that the next samples complete (perhaps none).

        `is_last` fills the last frame, and the lookahead after it, with silence.
        """
        config = self.config
        known = torch.cat([state.samples, samples.float()], dim=-1)
        rest = config.longest_window - config.hop_length
        if is_last:
            missing = config.lookahead_samples
            missing += -(known.shape[-1] + missing - rest) % config.hop_length
            known = functional.pad(known, (0, missing))
        num_frames = max((known.shape[-1] - rest) // config.hop_length, 0)
        if num_frames == 0:
            latents = known.new_zeros(known.shape[0], config.latent_dim, 0)
            return latents, SpectralEncoderState(known, state.blocks)
        with torch.autocast(samples.device.type, enabled=False):
            used = known[..., : rest + num_frames * config.hop_length]
            features = self.spectra(used.unfold(-1, config.longest_window, config.hop_length))
            direct = features @ self.shortcut
        hidden = rearrange(self.entry(features), "batch frames dim -> batch dim frames")
        hidden, blocks = _through(self.blocks, hidden, state.blocks)
        latents = self.exit(rearrange(hidden, "batch dim frames -> batch frames dim"))
        latents = latents.float() + direct
        left = known[..., num_frames * config.hop_length :]
        return (
            rearrange(latents, "batch frames dim -> batch dim frames"),
            SpectralEncoderState(left, blocks),
        )


class SpectralDecoder(nn.Module):
    """Latents to samples."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.decoder_dim
        self.entry = CausalConv1d(config.latent_dim, dim, config.kernel_size)
        self.blocks = nn.ModuleList(
            ConvNextBlock(dim, kernel_size=config.kernel_size, expansion=config.expansion)
            for _ in range(config.decoder_blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.exit = nn.Linear(dim, config.synthesis.num_outputs)
        split = config.synthesis.num_oscillators * config.synthesis.amplitudes_per_frame
        nn.init.constant_(self.exit.bias[:split], -7.0)  # starts as near silence
        nn.init.constant_(self.exit.bias[split:], -6.0)
        self.synthesis = Synthesis(config.synthesis)
        self.shortcut: Tensor
        num_outputs = config.synthesis.num_outputs
        self.register_buffer("shortcut", torch.zeros(config.latent_dim, num_outputs))

    def initial_state(
        self, like: Float[Tensor, "batch ..."], first_frame: Int[Tensor, " batch"] | None = None
    ) -> SpectralDecoderState:
        """Silence before `first_frame` (0 by default)."""
        channels = like.new_zeros(like.shape[0], self.config.decoder_dim, 0)
        return SpectralDecoderState(
            self.entry.initial_state(like),
            tuple(block.initial_state(channels) for block in _blocks(self.blocks)),
            self.synthesis.initial_state(like, first_frame),
        )

    def forward(
        self,
        latents: Float[Tensor, "batch dim frames"],
        first_frame: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch samples"]:
        """Audio of whole latents, `hop_length` samples a frame."""
        return self.stream(latents, self.initial_state(latents, first_frame))[0]

    def stream(
        self, latents: Float[Tensor, "batch dim frames"], state: SpectralDecoderState
    ) -> tuple[Float[Tensor, "batch samples"], SpectralDecoderState]:
        """Audio of the next latents."""
        hidden, entry = self.entry.stream(latents, state.entry)
        hidden, blocks = _through(self.blocks, hidden, state.blocks)
        normed = self.norm(rearrange(hidden, "batch dim frames -> batch frames dim"))
        with torch.autocast(latents.device.type, enabled=False):
            direct = (
                rearrange(latents.float(), "batch dim frames -> batch frames dim") @ self.shortcut
            )
        controls = self.exit(normed).float() + direct
        samples, synthesis = self.synthesis.stream(controls, state.synthesis)
        return samples, SpectralDecoderState(entry, blocks, synthesis)


def _late_window(window: AnalysisWindow) -> Float[Tensor, " samples"]:
    """A Hann window with a late peak; its sum is 2: a sinusoid reads as its amplitude."""
    fall = min(window.fall_length, window.window_length - 1)
    rise = window.window_length - fall
    up = torch.sin(0.5 * math.pi * (torch.arange(rise) + 0.5) / rise).square()
    down = torch.cos(0.5 * math.pi * (torch.arange(fall) + 0.5) / fall).square()
    shape = torch.cat([up, down])
    return shape * (2 / shape.sum())


def _blocks(modules: nn.ModuleList) -> list[ConvNextBlock]:
    return [module for module in modules if isinstance(module, ConvNextBlock)]


def _through(
    modules: nn.ModuleList, hidden: Tensor, states: tuple[ConvState, ...]
) -> tuple[Tensor, tuple[ConvState, ...]]:
    following: list[ConvState] = []
    for block, state in zip(_blocks(modules), states, strict=True):
        hidden, state = block.stream(hidden, ConvState(state.past.to(hidden)))
        following.append(state)
    return hidden, tuple(following)
