"""TensorFlow's checkpoint format ("tensor bundle") read with numpy alone.

A bundle is an index and one data file. The index is a LevelDB table: blocks of prefix-compressed
key-value pairs, found through a footer of two block handles. Each value is a `BundleEntryProto`
that gives a tensor's type, shape and place in the data file. Only what published checkpoints use
is read: one data shard, uncompressed blocks, plain numeric tensors; the rest is refused by name.

References: `tensorflow/core/protobuf/tensor_bundle.proto`, LevelDB's `table_format.md`.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from musiclm.core.errors import CheckpointError

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64}

ProtoFields = dict[int, list[Any]]


def read_tensor_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """The numeric tensors of a checkpoint by name.

    Args:
        index: Contents of the `.index` file.
        data: Contents of the `.data-00000-of-00001` file.

    Raises:
        CheckpointError: The files are truncated, or not a tensor bundle of this kind.
    """
    if len(index) < _FOOTER_BYTES or struct.unpack("<Q", index[-8:])[0] != _MAGIC:
        raise CheckpointError("The index is no TensorFlow checkpoint index, or it is truncated.")
    try:
        return dict(_read_tensors(index, data))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"The TensorFlow checkpoint is damaged ({error}).") from error


def _read_tensors(index: bytes, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    footer = index[-_FOOTER_BYTES:]
    _, position = _read_handle(footer, 0)
    root, _ = _read_handle(footer, position)
    for _, value in _read_block(index, *root):
        block, _ = _read_handle(value, 0)
        for key, entry in _read_block(index, *block):
            if key:  # the empty key holds the bundle's own header
                array = _read_tensor(_read_message(entry), data)
                if array is not None:
                    yield key.decode(), array


def _read_tensor(entry: ProtoFields, data: bytes) -> np.ndarray | None:
    """One tensor of the data file; None for a kind that is not numeric (strings, for instance)."""
    dtype = _DTYPES.get(_first(entry, 1, 0))
    if dtype is None:
        return None
    if _first(entry, 3, 0) != 0 or 7 in entry:
        raise ValueError("it is spread over several files or slices, which is not supported")
    dimensions = _read_message(_first(entry, 2, b"")).get(2, [])
    shape = [_first(_read_message(dimension), 1, 0) for dimension in dimensions]
    offset, size = _first(entry, 4, 0), _first(entry, 5, 0)
    if offset + size > len(data):
        raise ValueError(f"its data file ends at byte {len(data)}, {offset + size} are needed")
    return np.frombuffer(data[offset : offset + size], dtype).reshape(shape).copy()


def _read_block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Key-value pairs of a block; keys share a prefix with the one before."""
    if table[offset + size] != 0:
        raise ValueError("its index is compressed, which is not supported")
    block = table[offset : offset + size]
    num_restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 * (num_restarts + 1)
    position, key = 0, b""
    while position < end:
        num_shared, position = _read_varint(block, position)
        num_new, position = _read_varint(block, position)
        num_value, position = _read_varint(block, position)
        key = key[:num_shared] + block[position : position + num_new]
        position += num_new
        yield key, block[position : position + num_value]
        position += num_value


def _read_handle(buffer: bytes, position: int) -> tuple[tuple[int, int], int]:
    """A block's offset and size, and the position after them."""
    offset, position = _read_varint(buffer, position)
    size, position = _read_varint(buffer, position)
    return (offset, size), position


def _read_varint(buffer: bytes, position: int) -> tuple[int, int]:
    """A little-endian base-128 number, and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _read_message(buffer: bytes) -> ProtoFields:
    """The fields of a protocol-buffer message, undecoded, by number."""
    fields: ProtoFields = {}
    position = 0
    while position < len(buffer):
        tag, position = _read_varint(buffer, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _read_varint(buffer, position)
        elif kind in (_BYTES, _FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
            if kind == _BYTES:
                length, position = _read_varint(buffer, position)
            value = buffer[position : position + length]
            position += length
        else:
            raise ValueError(f"it holds a field of unknown kind {kind}")
        fields.setdefault(number, []).append(value)
    return fields


def _first(fields: ProtoFields, number: int, default: Any) -> Any:
    """A field's value; protocol buffers leave out defaults."""
    return fields.get(number, [default])[0]
