"""SEANet on a CPU in bfloat16: the layers of `codec.seanet`, packed for `codec.seanet_kernels`.

Weights and what convolutions read are bfloat16; sums, biases and the residual stream are float32,
and the audio or latents that come in keep 16 bits. A stream has the bits of the whole, and a batch
those of its examples, since each row's sums have one order and pieces begin where others stopped.

Axes: `rows` are time steps at the rate of a layer, `width` its channels filled up to 32.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from musiclm.codec.seanet import Layer, ResidualUnit, SeanetDecoder, SeanetEncoder
from musiclm.codec.seanet_kernels import Array, Following, Product, convolve
from musiclm.core.errors import ConfigError
from musiclm.layers.convolution import CausalConv1d, CausalConvTranspose1d, ConvState

_LANES = 32
_WIDE_LANES = 64
_PIECE_FRAMES = 24
"""Frames that run through all layers before the next ones: their rows stay in the caches."""
_SHARE_FRAMES = 200
"""What is worth another thread; each but the first computes some 20 frames twice."""


@dataclass(frozen=True)
class _Step:
    """A convolution, what follows it, and the rows it reads and makes."""

    product: Product
    following: Following
    width: int
    """Of an input row."""
    context: int
    """Input rows before the first of a piece."""
    rows_in: int
    """Input rows a frame."""
    rows_out: int
    """Rows of the product a frame."""

    @property
    def elements(self) -> int:
        """Numbers it makes a frame."""
        return self.rows_out * len(self.product.bias)


class FastLayers:
    """All layers of an encoder or a decoder, as a `LayerRunner`.

    It holds a copy of the weights: make another when they have changed.

    Args:
        module: The encoder or decoder, on the CPU.
    """

    def __init__(self, module: SeanetEncoder | SeanetDecoder) -> None:
        hop_length = module.config.hop_length
        is_encoder = isinstance(module, SeanetEncoder)
        self._rows_in = hop_length if is_encoder else 1
        self._block = 1 if is_encoder else gcd(_LANES, hop_length)
        self._dim = module.config.latent_dim if is_encoder else 1
        layers = [layer for layer in module.layers if isinstance(layer, Layer)]
        self._steps = _steps(layers, self._rows_in, self._block)
        self._reach_frames = ceil(sum(Fraction(step.context, step.rows_in) for step in self._steps))

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> tuple[ConvState, ...]:
        """Silence before the first piece, for each convolution that looks back."""
        shapes = [(len(like), step.width, step.context) for step in self._steps if step.context]
        return tuple(ConvState(torch.zeros(shape, dtype=torch.bfloat16)) for shape in shapes)

    def stream(
        self, piece: Float[Tensor, "batch channels rows"], states: tuple[ConvState, ...]
    ) -> tuple[Float[Tensor, "batch out_channels out_rows"], tuple[ConvState, ...]]:
        """Runs the next piece, whole frames long.

        Raises:
            ConfigError: The state was begun by the plain path.
        """
        if any(state.past.dtype != torch.bfloat16 for state in states):
            raise ConfigError("This stream was begun before `for_inference`; begin another one.")
        inputs = _to_bits(
            _two_parts(rearrange(piece, "batch channels rows -> batch rows channels"))
        )
        pasts = [
            _to_bits(rearrange(s.past, "batch width rows -> batch rows width")) for s in states
        ]
        following = [np.empty_like(past) for past in pasts]
        batch_size, num_frames = len(inputs), inputs.shape[1] // self._rows_in
        outputs = np.empty((batch_size, num_frames, self._steps[-1].elements), np.float32)
        num_threads = torch.get_num_threads()

        def run(row: int, share: slice) -> None:
            line = _Line(self._steps, min(num_frames, _PIECE_FRAMES))
            first = max(0, share.start - self._reach_frames)
            line.begin([past[row] for past in pasts] if first == 0 else None)
            while first < share.stop:
                stop = min(first + _PIECE_FRAMES, share.stop)
                rows = inputs[row, first * self._rows_in : stop * self._rows_in]
                made = line.run(rows, stop - first)
                start = max(first, share.start)
                outputs[row, start:stop] = made[len(made) - max(0, stop - start) :]
                first = stop
            if share.stop == num_frames:
                line.end([past[row] for past in following])

        shares = _shares(num_frames, max(1, num_threads // max(1, batch_size)))
        jobs = [(row, share) for share in shares for row in range(batch_size)]
        if len(jobs) == 1:
            run(*jobs[0])
        else:
            with ThreadPoolExecutor(num_threads) as pool:
                list(pool.map(run, *zip(*jobs, strict=True)))
        states = tuple(
            ConvState(rearrange(_from_bits(past), "batch rows width -> batch width rows"))
            for past in following
        )
        return self._unpacked(outputs), states

    def _unpacked(self, outputs: Array) -> Tensor:
        wide = rearrange(
            torch.from_numpy(outputs),
            "batch frames (rows lanes) -> batch (frames rows) lanes",
            rows=self._steps[-1].rows_out,
        )
        return rearrange(
            wide[..., : self._block * self._dim],
            "batch rows (block dim) -> batch dim (rows block)",
            block=self._block,
        ).contiguous()


class _Line:
    """The buffers of one example, whose pieces run through them one after the other."""

    def __init__(self, steps: Sequence[_Step], max_frames: int) -> None:
        self._steps = steps
        self._inputs = [
            np.empty((step.context + step.rows_in * max_frames) * step.width, np.uint16)
            for step in steps
        ]
        most = max(step.elements for step in steps if step.following.is_kept)
        self._hidden = np.empty(most * max_frames, np.float32)

    def begin(self, pasts: Sequence[Array] | None) -> None:
        """Takes up what was before, or silence."""
        looking_back = self._looking_back()
        for index, (buffer, size) in enumerate(looking_back):
            buffer[:size] = 0 if pasts is None else pasts[index].reshape(-1)

    def end(self, pasts: Sequence[Array]) -> None:
        """Writes what the next piece has to know."""
        for past, (buffer, size) in zip(pasts, self._looking_back(), strict=True):
            past[:] = buffer[:size].reshape(past.shape)

    def run(self, rows: Array, num_frames: int) -> Array:
        """What the last convolution makes of the next rows, [frames, elements], until the next."""
        new = [
            buffer[step.context * step.width :]
            for step, buffer in zip(self._steps, self._inputs, strict=True)
        ]
        new[0][: rows.size] = rows.reshape(-1)
        for step, inputs, activated in zip(
            self._steps, self._inputs, [*new[1:], new[-1]], strict=True
        ):
            num_rows = num_frames * step.rows_out
            convolve(step.product, step.following, inputs, self._hidden, activated, num_rows)
        for step, inputs in zip(self._steps, self._inputs, strict=True):
            size, end = step.context * step.width, num_frames * step.rows_in * step.width
            inputs[:size] = inputs[end : end + size].copy()
        elements = self._steps[-1].elements
        return self._hidden[: num_frames * elements].reshape(num_frames, elements)

    def _looking_back(self) -> list[tuple[Array, int]]:
        pairs = zip(self._steps, self._inputs, strict=True)
        return [(buffer, step.context * step.width) for step, buffer in pairs if step.context]


def _steps(layers: Sequence[Layer], rows: int, block: int) -> list[_Step]:
    """Every convolution in order, `rows` a frame coming in, `block` of the last in one row."""
    steps: list[_Step] = []
    for layer, next_layer in zip(layers, [*layers[1:], None], strict=True):
        following = Following(
            is_added=isinstance(layer, ResidualUnit),
            is_kept=next_layer is None or isinstance(next_layer, ResidualUnit),
            is_activated=next_layer is not None,
        )
        if isinstance(layer, ResidualUnit):
            inside = Following(is_added=False, is_kept=False, is_activated=True)
            steps.append(_causal(layer.dilated, inside, rows))
            steps.append(_pointwise(layer.pointwise, following, rows))
        elif isinstance(layer, CausalConv1d):
            steps.append(_causal(layer, following, rows, is_first=True))
        elif isinstance(layer.conv, CausalConvTranspose1d):
            steps.append(_transposed(layer.conv, following, rows))
            rows *= layer.conv.stride
        else:
            last_block = block if next_layer is None else 1
            steps.append(_causal(layer.conv, following, rows, block=last_block))
            rows //= layer.conv.stride
    return steps


def _causal(
    layer: CausalConv1d, following: Following, rows: int, *, is_first: bool = False, block: int = 1
) -> _Step:
    """A convolution; the first one reads its inputs' two parts, the last one may fill blocks."""
    conv = layer.conv
    weight = rearrange(conv.weight.detach(), "outs ins taps -> taps ins outs")
    bias = _bias(conv)
    weight = torch.cat([weight, weight], dim=1) if is_first else _filled(weight, 1)
    if block > 1:
        shifted = [functional.pad(weight, (0, 0, 0, 0, n, block - 1 - n)) for n in range(block)]
        weight, bias = torch.cat(shifted, dim=2), bias.repeat(block)
    stride = block * layer.stride
    product = _packed(weight, bias, stride=stride, dilation=conv.dilation[0])
    return _Step(product, following, weight.shape[1], layer.context, rows, rows // stride)


def _pointwise(conv: nn.Conv1d, following: Following, rows: int) -> _Step:
    weight = _filled(rearrange(conv.weight.detach(), "outs ins taps -> taps ins outs"), 1)
    return _Step(_packed(weight, _bias(conv)), following, weight.shape[1], 0, rows, rows)


def _transposed(layer: CausalConvTranspose1d, following: Following, rows: int) -> _Step:
    """A convolution of two taps, whose outputs at `stride` times the rate lie side by side."""
    weight = _filled(rearrange(layer.conv.weight.detach(), "ins outs taps -> taps ins outs"), 1, 2)
    now, later = weight.split(layer.stride)
    pairs = torch.stack([later, now])
    weight = rearrange(pairs, "taps stride ins outs -> taps ins (stride outs)")
    bias = _filled(layer.bias.detach(), 0).repeat(layer.stride)
    return _Step(_packed(weight, bias), following, weight.shape[1], 1, rows, rows)


def _packed(weight: Tensor, bias: Tensor, *, stride: int = 1, dilation: int = 1) -> Product:
    """A convolution of weights [taps, inputs, outputs]; outputs are filled up with zeros."""
    num_taps, width, _ = weight.shape
    weight = _filled(weight, 2)
    lanes = _LANES if weight.shape[2] % _WIDE_LANES else _WIDE_LANES
    panels = rearrange(
        weight.bfloat16(),
        "taps (pairs two) (panels lanes) -> panels (taps pairs) lanes two",
        two=2,
        lanes=lanes,
    )
    return Product(
        panels=_to_bits(panels).view(np.uint32)[..., 0].copy(),
        bias=_filled(bias, 0).float().numpy().copy(),
        row_stride=stride * width,
        tap_stride=dilation * width,
        num_taps=1 if dilation == 1 else num_taps,
    )


def _bias(conv: nn.Conv1d) -> Tensor:
    return torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()


def _filled(values: Tensor, *axes: int) -> Tensor:
    """Filled up with zeros to a multiple of 32 along some axes."""
    padding = [0, 0] * values.ndim
    for axis in axes:
        padding[2 * (values.ndim - 1 - axis) + 1] = -values.shape[axis] % _LANES
    return functional.pad(values, padding)


def _two_parts(values: Tensor) -> Tensor:
    """Float32 as a sum of two bfloat16, side by side along the last axis."""
    high = values.bfloat16()
    return torch.cat([high, (values - high.float()).bfloat16()], dim=-1)


def _to_bits(values: Tensor) -> Array:
    """A copy of bfloat16 values as uint16."""
    return (
        values.clone(memory_format=torch.contiguous_format)
        .view(torch.int16)
        .numpy()
        .view(np.uint16)
    )


def _from_bits(bits: Array) -> Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def _shares(num_frames: int, num_threads: int) -> list[slice]:
    """Frames in as many runs as are worth a thread, about equally long."""
    number = max(1, min(num_threads, num_frames // _SHARE_FRAMES))
    bounds = [index * num_frames // number for index in range(number + 1)]
    return [slice(*bounds[index : index + 2]) for index in range(number)]
