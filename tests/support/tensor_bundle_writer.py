"""Writes tiny TensorFlow checkpoints by hand, to test their reader without TensorFlow."""

import struct
from collections.abc import Sequence

import numpy as np

DTYPES = {np.dtype(np.float32): 1, np.dtype(np.int32): 3, np.dtype(np.int64): 9}


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(fields: Sequence[tuple[int, int | bytes]]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def table_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A LevelDB block with shared key prefixes and one restart point, and its 5-byte trailer."""
    out, previous = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        previous = key
    return out + struct.pack("<II", 0, 1) + bytes(5)


def write_bundle(tensors: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    """The index and the data of a checkpoint."""
    data = b""
    entries = [(b"", message([(1, 1)]))]
    for name, array in sorted(tensors.items()):
        shape = message([(2, message([(1, size)] if size else [])) for size in array.shape])
        raw = array.tobytes()
        entry = [(1, DTYPES[array.dtype]), (2, shape), (4, len(data)), (5, len(raw))]
        # A fixed-width checksum follows, which the reader steps over.
        entries.append((name.encode(), message(entry) + varint(6 << 3 | 5) + bytes(4)))
        data += raw
    block = table_block(entries)
    handle = varint(0) + varint(len(block) - 5)
    root = table_block([(b"~", handle)])
    footer = varint(0) + varint(0) + varint(len(block)) + varint(len(root) - 5)
    magic = struct.pack("<Q", 0xDB4775248B80FB57)
    return block + root + footer.ljust(40, b"\0") + magic, data
