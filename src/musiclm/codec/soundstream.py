"""SoundStream: waveform to codes and back, with either backbone around one residual quantizer."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from musiclm.codec.inference import fast_layers
from musiclm.codec.seanet import SeanetConfig, SeanetDecoder, SeanetEncoder, SeanetState
from musiclm.codec.spectral import (
    SpectralConfig,
    SpectralDecoder,
    SpectralDecoderState,
    SpectralEncoder,
    SpectralEncoderState,
)
from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.quantization.residual import (
    QuantizerConfig,
    QuantizerOutput,
    ResidualVectorQuantizer,
)
from musiclm.tokens.spec import TokenSpec

EncoderState = SeanetState | SpectralEncoderState
DecoderState = SeanetState | SpectralDecoderState


class SoundStreamConfig(Config):
    """A codec of 50 frames a second, 12 levels of 1024 codes: 6 kbps."""

    backbone: Literal["seanet", "spectral"] = "spectral"
    """`seanet` as published; `spectral` costs about a tenth."""
    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Samples per second."""
    seanet: SeanetConfig = SeanetConfig()
    """Used when `backbone` is `seanet`."""
    spectral: SpectralConfig = SpectralConfig()
    """Used when `backbone` is `spectral`."""
    quantizer: QuantizerConfig = QuantizerConfig()
    """The residual stack."""

    @model_validator(mode="after")
    def _check(self) -> "SoundStreamConfig":
        if self.sample_rate_hz % self.hop_length:
            raise ValueError("sample_rate_hz must be a multiple of hop_length")
        if self.shape.latent_dim != self.quantizer.codebook_dim:
            raise ValueError(
                f"the backbone's latent_dim is {self.shape.latent_dim}, the quantizer's "
                f"codebook_dim {self.quantizer.codebook_dim}; they must be equal"
            )
        spectral_rate = self.spectral.synthesis.sample_rate_hz
        if self.backbone == "spectral" and spectral_rate != self.sample_rate_hz:
            raise ValueError("spectral.synthesis.sample_rate_hz must equal sample_rate_hz")
        return self

    @property
    def shape(self) -> SeanetConfig | SpectralConfig:
        """The configuration of the backbone in use."""
        return self.seanet if self.backbone == "seanet" else self.spectral

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.shape.hop_length

    @property
    def frame_rate_hz(self) -> int:
        """Frames per second."""
        return self.sample_rate_hz // self.hop_length

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of all levels."""
        bits = math.log2(self.quantizer.codebook_size)
        return self.quantizer.num_quantizers * bits * self.frame_rate_hz


@dataclass(frozen=True)
class CodecOutput:
    """What training reads from a codec.

    Attributes:
        samples: The reconstruction, a whole number of frames long.
        latents: What the encoder gave.
        quantizer: What the quantizer made of it; `None` when it was passed by.
    """

    samples: Float[Tensor, "batch samples"]
    latents: Float[Tensor, "batch dim frames"]
    quantizer: QuantizerOutput | None


class SoundStream(nn.Module):
    """A neural codec (Zeghidour 2021); a `Tokenizer` of acoustic tokens."""

    def __init__(self, config: SoundStreamConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: SeanetEncoder | SpectralEncoder
        self.decoder: SeanetDecoder | SpectralDecoder
        if config.backbone == "seanet":
            self.encoder, self.decoder = SeanetEncoder(config.seanet), SeanetDecoder(config.seanet)
        else:
            self.encoder = SpectralEncoder(config.spectral)
            self.decoder = SpectralDecoder(config.spectral)
        self.quantizer = ResidualVectorQuantizer(config.quantizer)

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of the audio."""
        return self.config.sample_rate_hz

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def token_spec(self) -> TokenSpec:
        """The shape of the codes."""
        return TokenSpec(
            name="acoustic",
            num_quantizers=self.config.quantizer.num_quantizers,
            codebook_size=self.config.quantizer.codebook_size,
            frame_rate_hz=self.config.frame_rate_hz,
        )

    def for_inference(self) -> "SoundStream":
        """Puts the codec in eval mode, and lets it run faster than in float32 where that is known.

        From here on the `seanet` backbone runs in bfloat16 on CPUs with AVX-512 BF16
        (`codec.seanet_fast`) wherever no gradient is wanted. The codes and the audio are then those
        of float32 but for what bfloat16 rounds away (docs/performance.md says how much). Elsewhere
        nothing changes. It holds a copy of the weights: say it again when they have changed or been
        moved; `train()` ends it, `eval()` alone never begins it.

        Returns:
            The codec itself.
        """
        self.eval()
        if isinstance(self.encoder, SeanetEncoder):
            self.encoder.fast = fast_layers(self.encoder)
        if isinstance(self.decoder, SeanetDecoder):
            self.decoder.fast = fast_layers(self.decoder)
        return self

    @property
    def is_fast(self) -> bool:
        """Whether `for_inference` made a difference."""
        coders = (self.encoder, self.decoder)
        return all(
            isinstance(coder, SeanetEncoder | SeanetDecoder) and coder.fast is not None
            for coder in coders
        )

    def forward(
        self,
        samples: Float[Tensor, "batch samples"],
        *,
        is_quantized: bool = True,
        first_frame: Int[Tensor, " batch"] | None = None,
        generator: torch.Generator | None = None,
    ) -> CodecOutput:
        """Reconstructs audio, for training.

        Args:
            samples: Audio at `sample_rate_hz`.
            is_quantized: Whether the quantizer is used or passed by.
            first_frame: Where in time each example's synthesis starts (phases, noise); default 0.
            generator: Source of the quantizer's draws in training mode.
        """
        latents = self.encoder(samples)
        output = self.quantizer(latents, generator=generator) if is_quantized else None
        carried = latents if output is None else output.quantized
        return CodecOutput(self.decoder(carried, first_frame), latents, output)

    @torch.no_grad()
    def encode(
        self, samples: Float[Tensor, "batch samples"], num_levels: int | None = None
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Codes of the first `num_levels` levels (default all); fills the last frame with silence.

        Raises:
            ConfigError: There are no samples, or not that many levels.
        """
        if samples.shape[-1] == 0:
            raise ConfigError("There is no audio to encode: it has 0 samples.")
        return self.quantizer.encode(self.encoder(samples), num_levels)

    @torch.no_grad()
    def decode(
        self, codes: Int[Tensor, "batch quantizers frames"]
    ) -> Float[Tensor, "batch samples"]:
        """Audio of codes of any number of levels, `hop_length` samples a frame."""
        return self.decoder(self.quantizer.decode(codes))

    def tokenize(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Codes of all levels (the `Tokenizer` protocol)."""
        return self.encode(samples)

    @torch.no_grad()
    def encoder_state(self, batch_size: int = 1) -> EncoderState:
        """The state before the first samples of a stream."""
        return self.encoder.initial_state(
            self.quantizer.quantizers[0].codebook.new_zeros(batch_size)
        )

    @torch.no_grad()
    def decoder_state(self, batch_size: int = 1) -> DecoderState:
        """The state before the first codes of a stream."""
        return self.decoder.initial_state(
            self.quantizer.quantizers[0].codebook.new_zeros(batch_size)
        )

    @torch.no_grad()
    def encode_stream(
        self, samples: Float[Tensor, "batch samples"], state: EncoderState, *, is_last: bool = False
    ) -> tuple[Int[Tensor, "batch quantizers frames"], EncoderState]:
        """Codes of the frames that the next samples complete, and the next state."""
        if isinstance(self.encoder, SeanetEncoder):
            assert isinstance(state, SeanetState)
            latents, following = self.encoder.stream(samples, state, is_last=is_last)
        else:
            assert isinstance(state, SpectralEncoderState)
            latents, following = self.encoder.stream(samples, state, is_last=is_last)
        return self.quantizer.encode(latents), following

    @torch.no_grad()
    def decode_stream(
        self, codes: Int[Tensor, "batch quantizers frames"], state: DecoderState
    ) -> tuple[Float[Tensor, "batch samples"], DecoderState]:
        """Audio of the next codes, and the next state."""
        latents = self.quantizer.decode(codes)
        if isinstance(self.decoder, SeanetDecoder):
            assert isinstance(state, SeanetState)
            return self.decoder.stream(latents, state)
        assert isinstance(state, SpectralDecoderState)
        return self.decoder.stream(latents, state)
