"""The token store: a corpus as codes and embeddings, in Parquet shards that anything can read.

A store is a folder with `store.json` (a `StoreHeader`) and `shard-00000.parquet` and so on, one row
a clip:

| column | type | meaning |
|---|---|---|
| `clip_id`, `split` | string | as in the manifest |
| `duration_seconds` | float64 | length of the tokenized audio |
| `captions` | list of (`text`, `kind`, `is_held_out`) | as in the manifest |
| `labels` | string | JSON of the manifest's labels |
| `semantic`, `acoustic` | list of uint16 | codes `[quantizers, frames]`, level after level |
| `embeddings` | list of float16 | `[windows, dim]`, one row a window, window after window |
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt16
from numpy import ndarray
from pydantic import Field, model_validator

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError, DataError, DependencyError
from musiclm.core.files import write_text_whole, written_whole
from musiclm.data.manifest import Caption, Labels, Split
from musiclm.tokens.spec import TokenSpec

try:
    import pyarrow as arrow
    from pyarrow import compute, parquet
except ImportError as error:
    raise DependencyError(
        "Token stores need pyarrow, which is not installed. Run: pip install 'musiclm[train]'."
    ) from error

STORE_VERSION = 1
HEADER_NAME = "store.json"
_SCHEMA = arrow.schema(
    [
        ("clip_id", arrow.string()),
        ("split", arrow.string()),
        ("duration_seconds", arrow.float64()),
        (
            "captions",
            arrow.list_(
                arrow.struct(
                    [
                        ("text", arrow.string()),
                        ("kind", arrow.string()),
                        ("is_held_out", arrow.bool_()),
                    ]
                )
            ),
        ),
        ("labels", arrow.string()),
        ("semantic", arrow.list_(arrow.uint16())),
        ("acoustic", arrow.list_(arrow.uint16())),
        ("embeddings", arrow.list_(arrow.float16())),
    ]
)


class Share(Config):
    """Which of several writers of one store this is; each has its own clips and shard numbers."""

    index: int = Field(default=0, ge=0)
    """Its number, from 0."""
    count: int = Field(default=1, gt=0)
    """Writers in all."""

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Reads `INDEX/COUNT`, for instance `0/2`.

        Raises:
            ConfigError: It says something else.
        """
        parts = text.split("/")
        if len(parts) == 2 and all(part.isdecimal() for part in parts):
            index, count = int(parts[0]), int(parts[1])
            if index < count:
                return cls(index=index, count=count)
        raise ConfigError(
            f"Share {text!r} is no INDEX/COUNT with an index below the count: write 0/2 and 1/2, "
            "for instance."
        )


class StoreHeader(Config):
    """What every row of a store has in common."""

    format_version: int = STORE_VERSION
    """Of the layout in this file's docstring."""
    semantic: TokenSpec
    """Shape of the semantic codes."""
    acoustic: TokenSpec
    """Shape of the acoustic codes."""
    embedding_dim: int = Field(gt=0)
    """Width of the joint audio-text embedding."""
    window_seconds: float = Field(default=10.0, gt=0)
    """Audio behind one embedding."""
    stride_seconds: float = Field(default=1.0, gt=0)
    """From the start of one window to the next."""
    weight_hashes: Mapping[str, str] = Field(default={})
    """SHA-256 of the weights that made the tokens, by model."""

    @model_validator(mode="after")
    def _check(self) -> "StoreHeader":
        for spec in (self.semantic, self.acoustic):
            if spec.codebook_size > 2**16:
                raise ValueError(f"{spec.name} codes do not fit into 16 bits")
        if self.acoustic.frame_rate_hz % self.semantic.frame_rate_hz:
            raise ValueError("the acoustic frame rate must be a multiple of the semantic one")
        return self


@dataclass(frozen=True)
class TokenizedClip:
    """One row of a store."""

    clip_id: str
    split: Split
    duration_seconds: float
    captions: tuple[Caption, ...]
    labels: Labels
    semantic: UInt16[ndarray, "semantic_quantizers semantic_frames"]
    acoustic: UInt16[ndarray, "acoustic_quantizers acoustic_frames"]
    embeddings: Float[ndarray, "windows dim"]


@dataclass(frozen=True)
class TokenSplit:
    """The clips of a split in memory, one after the other on the last (codes) or first axis.

    Clip `i` has the semantic frames `semantic_offsets[i]` to `semantic_offsets[i + 1]`; likewise
    for the acoustic frames and the windows.
    """

    clip_ids: tuple[str, ...]
    captions: tuple[tuple[Caption, ...], ...]
    labels: tuple[Labels, ...]
    semantic: UInt16[ndarray, "semantic_quantizers semantic_frames"]
    semantic_offsets: Int64[ndarray, " clips_and_end"]
    acoustic: UInt16[ndarray, "acoustic_quantizers acoustic_frames"]
    acoustic_offsets: Int64[ndarray, " clips_and_end"]
    embeddings: Float[ndarray, "windows dim"]
    window_offsets: Int64[ndarray, " clips_and_end"]

    @property
    def num_clips(self) -> int:
        """Clips in the split."""
        return len(self.clip_ids)


class TokenStoreWriter:
    """Appends clips to a store, shard by shard; a store that was cut off goes on.

    Use it in a `with` block: leaving it writes the clips that are waiting.
    """

    def __init__(
        self,
        folder: Path,
        header: StoreHeader,
        *,
        clips_per_shard: int = 256,
        share: Share | None = None,
    ) -> None:
        """Opens a new or an unfinished store.

        Raises:
            DataError: The folder holds a store of other tokens, or is damaged.
        """
        self._folder = folder
        self._clips_per_shard = clips_per_shard
        self._share = share or Share()
        self._waiting: list[TokenizedClip] = []
        if (folder / HEADER_NAME).is_file():
            _check_same(folder, read_header(folder), header)
        else:
            write_text_whole(folder / HEADER_NAME, header.to_json() + "\n")
        self.done_clip_ids = {
            clip_id
            for path in shard_paths(folder)
            for clip_id in _read_table(path, ["clip_id"])["clip_id"].to_pylist()
        }
        """Clips that are in the store already."""

    def add(self, clip: TokenizedClip) -> None:
        """Appends one clip; a full shard is written at once."""
        self._waiting.append(clip)
        self.done_clip_ids.add(clip.clip_id)
        if len(self._waiting) >= self._clips_per_shard:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting clips as a shard, whole or not at all."""
        if not self._waiting:
            return
        table = arrow.Table.from_pylist([_row(clip) for clip in self._waiting], schema=_SCHEMA)
        index, count = self._share.index, self._share.count
        numbers = [int(path.stem.split("-")[1]) for path in shard_paths(self._folder)]
        own = [number for number in numbers if number % count == index]
        number = max(own, default=index - count) + count
        path = self._folder / f"shard-{number:05d}.parquet"
        with written_whole(path) as temporary:
            parquet.write_table(table, temporary, compression="zstd")
        self._waiting.clear()

    def __enter__(self) -> "TokenStoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()


def read_header(folder: Path) -> StoreHeader:
    """The header of a store.

    Raises:
        DataError: There is no store, or it has another version.
    """
    path = folder / HEADER_NAME
    if not path.is_file():
        raise DataError(
            f"{folder} is no token store: it has no {HEADER_NAME}. Make one: `musiclm tokenize`."
        )
    try:
        version = json.loads(path.read_text(encoding="utf-8")).get("format_version")
        if version != STORE_VERSION:
            raise DataError(
                f"{folder} has store version {version}, this program reads {STORE_VERSION}. "
                "Tokenize the corpus again."
            )
        return StoreHeader.from_json(path.read_text(encoding="utf-8"))
    except (ConfigError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}). Tokenize the corpus again.") from error


def read_split(folder: Path, split: Split) -> TokenSplit:
    """Loads the clips of a split (about 2 kB a second of audio), in the order they were added.

    Raises:
        DataError: There is no store, or a shard is damaged.
    """
    header = read_header(folder)
    tables = [_SCHEMA.empty_table()]
    for path in shard_paths(folder):
        whole = _read_table(path)
        tables.append(whole.filter(compute.field("split") == split))
    table = arrow.concat_tables(tables)
    levels = header.semantic.num_quantizers, header.acoustic.num_quantizers
    semantic, semantic_offsets = _codes(table["semantic"], levels[0])
    acoustic, acoustic_offsets = _codes(table["acoustic"], levels[1])
    embeddings, window_offsets = _flat(table["embeddings"], np.float16)
    return TokenSplit(
        clip_ids=tuple(table["clip_id"].to_pylist()),
        captions=tuple(
            tuple(Caption.model_validate(caption) for caption in captions)
            for captions in table["captions"].to_pylist()
        ),
        labels=tuple(Labels.model_validate_json(text) for text in table["labels"].to_pylist()),
        semantic=semantic,
        semantic_offsets=semantic_offsets,
        acoustic=acoustic,
        acoustic_offsets=acoustic_offsets,
        embeddings=embeddings.reshape(-1, header.embedding_dim),
        window_offsets=window_offsets // header.embedding_dim,
    )


def read_rows(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row; codes and embeddings come as flat arrays.

    Raises:
        DataError: A shard is damaged.
    """
    for path in shard_paths(folder):
        table = _read_table(path, columns).combine_chunks()
        lists = {name for name in columns if name in ("semantic", "acoustic", "embeddings")}
        flats = {
            name: _flat(table[name], _SCHEMA.field(name).type.value_type.to_pandas_dtype())
            for name in lists
        }
        plain = {name: table[name].to_pylist() for name in columns if name not in lists}
        for row in range(table.num_rows):
            cut = {
                name: values[offsets[row] : offsets[row + 1]]
                for name, (values, offsets) in flats.items()
            }
            yield {name: values[row] for name, values in plain.items()} | cut


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a store, in order."""
    return sorted(folder.glob("shard-*.parquet"))


def _check_same(folder: Path, found: StoreHeader, wanted: StoreHeader) -> None:
    if found == wanted:
        return
    for name in type(wanted).model_fields:
        old, new = getattr(found, name), getattr(wanted, name)
        if old != new:
            raise DataError(
                f"{folder} holds tokens with {name} {old}, now it would be {new}. "
                "Choose another folder, or delete this one."
            )


def _read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    try:
        names = list(columns) if columns is not None else _SCHEMA.names
        return parquet.read_table(path, columns=names)
    except (arrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete it and tokenize again.") from error


def _row(clip: TokenizedClip) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "split": clip.split,
        "duration_seconds": clip.duration_seconds,
        "captions": [caption.model_dump() for caption in clip.captions],
        "labels": clip.labels.model_dump_json(exclude_defaults=True),
        "semantic": clip.semantic.reshape(-1),
        "acoustic": clip.acoustic.reshape(-1),
        "embeddings": clip.embeddings.astype(np.float16).reshape(-1),
    }


def _flat(column: Any, dtype: type[np.generic]) -> tuple[Any, Any]:
    """All values of a list column, and where each row starts (with the end)."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = np.concatenate(
        [[0], *(chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in column.chunks)]
    )
    values = np.concatenate(chunks).astype(dtype, copy=False) if chunks else np.zeros(0, dtype)
    return values, np.cumsum(lengths).astype(np.int64)


def _codes(column: Any, num_quantizers: int) -> tuple[Any, Any]:
    """Level-major rows to `[quantizers, all frames]`, and the frame where each row starts."""
    values, offsets = _flat(column, np.uint16)
    if num_quantizers == 1:
        return values[None], offsets
    starts = offsets // num_quantizers
    codes = np.empty((num_quantizers, int(starts[-1])), np.uint16)
    for row in range(len(offsets) - 1):
        clip = values[offsets[row] : offsets[row + 1]].reshape(num_quantizers, -1)
        codes[:, starts[row] : starts[row + 1]] = clip
    return codes, starts
