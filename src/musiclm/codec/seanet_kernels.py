"""A convolution of bfloat16 rows and what follows it, compiled for CPUs with AVX-512 BF16.

Rows are time steps with their channels side by side, so that convolutions of every kind are one
matrix product: output row `r` is a weighted sum of the inputs from element `r * row_stride` on, and
of those `tap_stride` elements further for each further tap. Products of two bfloat16 are exact and
are summed in float32, two at a time (`vdpbf16ps`), in one order for every row: a row's numbers do
not depend on the rows beside it.

Compilers do not find these instructions by themselves. Hence the innermost loop is written in
LLVM's vector operations, through numba's `intrinsic`. One file on purpose: numba keeps compiled
functions by the file they stand in, and would not notice that a part of them has changed elsewhere.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from llvmlite.binding import initialize_native_asmparser
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from musiclm.core.compiled import compiled

Array = NDArray[Any]
LANES = 16
"""Numbers of a vector register."""
_TILE_ROWS = 6
"""Rows computed together: with panels of four registers 24 sums, of the CPU's 32 registers."""

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(64)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_PAIRS = ir.VectorType(ir.IntType(32), LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)
_LOG2_E = 1.4426950408889634
_EXP2 = (0.009618129, 0.055504109, 0.24022651, 0.69314718, 1.0)
"""Taylor's coefficients of 2**x: within 4e-5 for |x| <= 0.5, and exact where ELU goes through 0."""


class Product(NamedTuple):
    """A convolution: its weights, and where the inputs of a row lie."""

    panels: Array
    """[panels, input pairs, lanes], uint32: the bfloat16 weights of two neighbouring inputs."""
    bias: Array
    """[panels * lanes], float32."""
    row_stride: int
    """Elements from one row's inputs to the next one's."""
    tap_stride: int
    """Elements from one tap's inputs to the next one's."""
    num_taps: int
    """Of the convolution; 1 where the inputs of all taps lie side by side."""


class Following(NamedTuple):
    """What is done with the sums, in this order."""

    is_added: bool
    """Whether what `hidden` holds is added."""
    is_kept: bool
    """Whether `hidden` is overwritten."""
    is_activated: bool
    """Whether `activated` takes the ELU."""


def _make_tile(  # noqa: PLR0913  (they stay in registers)
    typing: Any,
    num_rows: Any,
    num_vectors: Any,
    arrays: Any,
    place: Any,
    strides: Any,
    following: Any,
) -> Any:
    """Computes `num_rows` rows of a panel `num_vectors` registers wide, both known beforehand.

    Args:
        typing: Numba's.
        num_rows: Rows.
        num_vectors: Registers.
        arrays: Inputs from the first row's on, the panel, its bias, `hidden` and `activated`.
        place: Where in the outputs the tile begins.
        strides: Of rows, of taps, number of taps, pairs of a tap, width of the outputs.
        following: As for `convolve`.
    """
    rows, vectors = num_rows.literal_value, num_vectors.literal_value

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        initialize_native_asmparser()  # reads `_instruction`'s texts
        kinds = signature.args[2]
        inputs, weights, bias, hidden, activated = (
            context.make_array(kind)(context, builder, builder.extract_value(values[2], index)).data
            for index, kind in enumerate(kinds)
        )
        row_stride, tap_stride, num_taps, num_pairs, width = _parts(builder, values[4], 5)
        sums = _sums(
            builder,
            (rows, vectors),
            (inputs, weights),
            (row_stride, tap_stride, num_taps, num_pairs),
        )
        is_added, is_kept, is_activated = _parts(builder, values[5], 3)
        for row in range(rows):
            begin = builder.add(values[3], builder.mul(width, _INDEX(row)))
            for vector in range(vectors):
                total = sums[row][vector]
                lanes = _INDEX(vector * LANES)
                added = _vector_at(builder, bias, lanes, _FLOATS)
                builder.store(
                    builder.fadd(builder.load(total), builder.load(added, align=4)), total
                )
                at = builder.add(begin, lanes)
                kept = _vector_at(builder, hidden, at, _FLOATS)
                with builder.if_then(is_added):
                    before = builder.load(kept, align=4)
                    builder.store(builder.fadd(builder.load(total), before), total)
                with builder.if_then(is_kept):
                    builder.store(builder.load(total), kept, align=4)
                with builder.if_then(is_activated):
                    bits = _to_bfloat16(builder, _elu(builder, builder.load(total)))
                    builder.store(bits, _vector_at(builder, activated, at, _HALVES), align=2)
        return context.get_dummy_value()

    return types.void(num_rows, num_vectors, arrays, place, strides, following), generate


_tile: Any = intrinsic(prefer_literal=True)(_make_tile)


def _sums(
    builder: Any, size: tuple[int, int], pointers: tuple[Any, Any], strides: tuple[Any, ...]
) -> list[list[Any]]:
    """The sums of a tile, in variables that the compiler keeps in registers."""
    rows, vectors = size
    inputs, weights = pointers
    row_stride, tap_stride, num_taps, num_pairs = strides
    sums = [[cgutils.alloca_once(builder, _FLOATS) for _ in range(vectors)] for _ in range(rows)]
    for total in (total for row in sums for total in row):
        builder.store(ir.Constant(_FLOATS, None), total)
    with cgutils.for_range(builder, num_taps) as tap:
        begin = builder.mul(tap.index, tap_stride)
        with cgutils.for_range(builder, num_pairs) as pair:
            at = builder.add(begin, builder.mul(pair.index, _INDEX(2)))
            taken = builder.add(builder.mul(tap.index, num_pairs), pair.index)
            first = builder.mul(taken, _INDEX(vectors * LANES))
            columns = [
                builder.load(
                    _vector_at(builder, weights, builder.add(first, _INDEX(v * LANES)), _PAIRS),
                    align=4,
                )
                for v in range(vectors)
            ]
            for row, totals in enumerate(sums):
                element = builder.add(at, builder.mul(row_stride, _INDEX(row)))
                two = builder.load(_vector_at(builder, inputs, element, ir.IntType(32)), align=2)
                spread = _spread(builder, two, _PAIRS)
                for total, column in zip(totals, columns, strict=True):
                    result = _instruction(
                        builder,
                        "vdpbf16ps $3, $2, $0",
                        _FLOATS,
                        builder.load(total),
                        spread,
                        column,
                    )
                    builder.store(result, total)
    return sums


def _elu(builder: Any, value: Any) -> Any:
    """ELU of a vector: 2**(x log2 e) - 1 below 0, to a tenth of what bfloat16 rounds away."""
    is_negative = builder.fcmp_ordered("<", value, ir.Constant(_FLOATS, None))
    scaled = builder.fmul(value, _constant(_LOG2_E))
    whole = _instruction(builder, "vrndscaleps $$0, $1, $0", _FLOATS, scaled)
    rest = builder.fsub(scaled, whole)
    power = _constant(_EXP2[0])
    for coefficient in _EXP2[1:]:
        power = _instruction(
            builder, "vfmadd213ps $3, $2, $0", _FLOATS, power, rest, _constant(coefficient)
        )
    power = _instruction(builder, "vscalefps $2, $1, $0", _FLOATS, power, whole)
    return builder.select(is_negative, builder.fsub(power, _constant(1.0)), value)


def _to_bfloat16(builder: Any, value: Any) -> Any:
    return _instruction(builder, "vcvtneps2bf16 $1, $0", _HALVES, value)


def _instruction(builder: Any, text: str, result: Any, *values: Any) -> Any:
    """One instruction; where it has an operand $3, its result replaces the first value."""
    is_replaced = "$3" in text
    constraints = ",".join(["=v", "0" if is_replaced else "v", *["v"] * (len(values) - 1)])
    signature = ir.FunctionType(result, [value.type for value in values])
    return builder.asm(signature, text, constraints, values, side_effect=False)


def _spread(builder: Any, scalar: Any, vector: Any) -> Any:
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), everywhere)


def _constant(number: float) -> Any:
    return ir.Constant(_FLOATS, [number] * LANES)


def _vector_at(builder: Any, pointer: Any, element: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [element]), kind.as_pointer())


def _parts(builder: Any, values: Any, number: int) -> list[Any]:
    return [builder.extract_value(values, index) for index in range(number)]


@compiled()
def convolve(
    product: Product,
    following: Following,
    inputs: Array,
    hidden: Array,
    activated: Array,
    num_rows: int,
) -> None:
    """Computes rows of outputs, each as wide as all panels together.

    Args:
        product: The convolution.
        following: What is done with its sums.
        inputs: Flat rows of bfloat16 bits (uint16), those before the first row included.
        hidden: Flat rows of float32, the residual stream; unused where `following` says so.
        activated: Flat rows of bfloat16 bits, likewise.
        num_rows: How many.
    """
    num_panels, all_pairs, lanes = product.panels.shape
    num_pairs = all_pairs // product.num_taps
    width = num_panels * lanes
    strides = (product.row_stride, product.tap_stride, product.num_taps, num_pairs, width)
    grouped = num_rows - num_rows % _TILE_ROWS
    for panel in range(num_panels):
        first = panel * lanes
        weights, bias = product.panels[panel], product.bias[first : first + lanes]
        for row in range(0, grouped, _TILE_ROWS):
            arrays = (inputs[row * product.row_stride :], weights, bias, hidden, activated)
            place = row * width + first
            if lanes == 4 * LANES:
                _tile(_TILE_ROWS, 4, arrays, place, strides, following)
            else:
                _tile(_TILE_ROWS, 2, arrays, place, strides, following)
        for row in range(grouped, num_rows):
            arrays = (inputs[row * product.row_stride :], weights, bias, hidden, activated)
            place = row * width + first
            if lanes == 4 * LANES:
                _tile(1, 4, arrays, place, strides, following)
            else:
                _tile(1, 2, arrays, place, strides, following)
