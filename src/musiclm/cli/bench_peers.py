"""The peers of `musiclm bench`: published shapes with random weights, built by `transformers`.

Speed does not depend on the values of weights, so nothing is downloaded. What stands around the
network (text encoders, the codec of MusicGen, the autoencoder of Stable Audio) is left out: the
figures flatter the peers.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from musiclm.cli.bench_figures import Figure, timed
from musiclm.cli.bench_measures import CODEC_SECONDS, speeds_of

PeerName = Literal["musicgen-small", "stable-audio-3-small", "encodec-24khz", "dac-24khz", "mimi"]
PEERS: tuple[PeerName, ...] = (
    "musicgen-small",
    "stable-audio-3-small",
    "encodec-24khz",
    "dac-24khz",
    "mimi",
)
_DTYPES = (("fp32", torch.float32), ("bf16", torch.bfloat16))
_MUSICGEN_STEPS = 100
_MUSICGEN_RATE_HZ = 50
_DIFFUSION_SECONDS = 30.0
_PATIENCE_SECONDS = 60.0
"""A peer that is slower than this in all its runs is measured fewer times."""


def peer_figures(name: PeerName, device: torch.device, runs: int) -> list[Figure]:
    """What is measured of one peer; a figure without values when it cannot be built."""
    if name == "stable-audio-3-small":
        return _stable_audio(device, runs)
    if importlib.util.find_spec("transformers") is None:
        note = 'transformers is not installed; pip install "musiclm[bench]"'
        return [Figure(name=name, unit="", note=note)]
    if name == "musicgen-small":
        return _musicgen(device, runs)
    return _codec(name, device, runs)


def _musicgen(device: torch.device, runs: int) -> list[Figure]:
    """The decoder of 24 layers of 1024 at 50 Hz, 4 codebooks, guidance (two rows), cached."""
    import transformers

    config = transformers.MusicgenDecoderConfig(is_decoder=True, add_cross_attention=True)
    model: Any = transformers.MusicgenForCausalLM(config).eval()
    model.to(device)
    figures: list[Figure] = []
    for precision, dtype in _DTYPES:
        model.to(dtype)
        text = torch.zeros(2, 16, config.hidden_size, dtype=dtype, device=device)
        ids = torch.zeros(2 * config.num_codebooks, 1, dtype=torch.long, device=device)

        def run(text: Tensor = text, ids: Tensor = ids) -> None:
            cache = None
            with torch.inference_mode():
                for _ in range(_MUSICGEN_STEPS):
                    said = model(ids, encoder_hidden_states=text, past_key_values=cache)
                    cache = said.past_key_values
            _wait(device)

        music_seconds = _MUSICGEN_STEPS / _MUSICGEN_RATE_HZ
        figures.append(
            Figure(
                name=f"musicgen-small {precision}",
                unit="x real time",
                values=tuple(
                    seconds / music_seconds
                    for seconds in timed(run, runs, patience_seconds=_PATIENCE_SECONDS)
                ),
                note="decoder alone, guidance, its first 2 s",
            )
        )
    return figures


class _DiffusionBlock(nn.Module):
    """A block of the small model's shape: width 1024, 16 heads, cross-attention, gated 4096."""

    def __init__(self, dim: int = 1024, num_heads: int = 16, inner_dim: int = 4096) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(3))
        self.self_in = nn.Linear(dim, 3 * dim, bias=False)
        self.self_out = nn.Linear(dim, dim, bias=False)
        self.cross_query = nn.Linear(dim, dim, bias=False)
        self.cross_in = nn.Linear(dim, 2 * dim, bias=False)
        self.cross_out = nn.Linear(dim, dim, bias=False)
        self.gated_in = nn.Linear(dim, 2 * inner_dim)
        self.gated_out = nn.Linear(inner_dim, dim)

    def forward(self, states: Tensor, text: Tensor) -> Tensor:
        queries, keys, values = self.self_in(self.norms[0](states)).chunk(3, dim=-1)
        states = states + self.self_out(self._attend(queries, keys, values))
        keys, values = self.cross_in(text).chunk(2, dim=-1)
        queries = self.cross_query(self.norms[1](states))
        states = states + self.cross_out(self._attend(queries, keys, values))
        value, gate = self.gated_in(self.norms[2](states)).chunk(2, dim=-1)
        return states + self.gated_out(value * functional.silu(gate))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (queries, keys, values)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)


def _stable_audio(device: torch.device, runs: int) -> list[Figure]:
    """20 such blocks, 8 steps over the latents of 30 s (44.1 kHz / 4096) and 64 memory tokens."""
    blocks = nn.ModuleList(_DiffusionBlock() for _ in range(20)).eval().to(device)
    num_positions = round(_DIFFUSION_SECONDS * 44_100 / 4096) + 64
    figures: list[Figure] = []
    for precision, dtype in _DTYPES:
        blocks.to(dtype)
        states = torch.zeros(1, num_positions, 1024, dtype=dtype, device=device)
        text = torch.zeros(1, 257, 1024, dtype=dtype, device=device)

        def run(states: Tensor = states, text: Tensor = text) -> None:
            with torch.inference_mode():
                for _ in range(8):
                    moved = states
                    for block in blocks:
                        moved = block(moved, text)
            _wait(device)

        figures.append(
            Figure(
                name=f"stable-audio-3-small {precision}",
                unit="x real time",
                values=tuple(
                    seconds / _DIFFUSION_SECONDS
                    for seconds in timed(run, runs, patience_seconds=_PATIENCE_SECONDS)
                ),
                note="diffusion transformer alone, 8 steps, 30 s",
            )
        )
    return figures


def _codec(name: PeerName, device: torch.device, runs: int) -> list[Figure]:
    import transformers

    if name == "encodec-24khz":
        model: Any = transformers.EncodecModel(transformers.EncodecConfig())
    elif name == "dac-24khz":
        model = transformers.DacModel(
            transformers.DacConfig(
                downsampling_ratios=[2, 4, 5, 8], n_codebooks=32, sampling_rate=24_000
            )
        )
    else:
        model = transformers.MimiModel(transformers.MimiConfig())
    model = model.eval().to(device)
    figures: list[Figure] = []
    for precision, dtype in _DTYPES:
        model.to(dtype)
        encode, decode = _codec_actions(name, model, device, dtype)
        try:
            figures += speeds_of(
                f"{name} {precision}", encode, decode, runs, patience_seconds=_PATIENCE_SECONDS
            )
        except RuntimeError as error:  # a kernel that lacks this precision
            reason = str(error).splitlines()[0][:60]
            figures.append(Figure(name=f"{name} {precision}", unit="", note=reason))
    return figures


def _codec_actions(
    name: PeerName, model: Any, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], object], Callable[[], object]]:
    samples = torch.zeros(1, 1, int(CODEC_SECONDS * 24_000), dtype=dtype, device=device)
    options = {"bandwidth": 6.0} if name == "encodec-24khz" else {}
    kept: list[Any] = []

    def encode() -> None:
        with torch.inference_mode():
            kept[:] = [model.encode(samples, **options)]
        _wait(device)

    def decode() -> None:
        with torch.inference_mode():
            if name == "encodec-24khz":
                model.decode(kept[0].audio_codes, kept[0].audio_scales)
            else:
                model.decode(audio_codes=kept[0].audio_codes)
        _wait(device)

    return encode, decode


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
