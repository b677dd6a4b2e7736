"""Reuse: tokens of an older store, for the parts of a model whose weights have not changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from musiclm.core.errors import DataError
from musiclm.data.token_store import StoreHeader, read_header, read_rows

TokenPart = Literal["semantic", "acoustic", "embeddings"]
_MODEL_OF: Mapping[TokenPart, str] = {
    "semantic": "semantic",
    "acoustic": "codec",
    "embeddings": "mulan",
}
_SETTINGS_OF: Mapping[TokenPart, tuple[str, ...]] = {
    "semantic": ("semantic",),
    "acoustic": ("acoustic",),
    "embeddings": ("embedding_dim", "window_seconds", "stride_seconds"),
}


class ReusedTokens:
    """What a store of the same corpus knows already.

    Args:
        folder: A token store.
        wanted: The header of the store that is to be made: parts made by other weights or in
            another shape are left aside.

    Raises:
        DataError: There is no store, it is damaged, or none of its parts can be used.
    """

    def __init__(self, folder: Path, wanted: StoreHeader) -> None:
        found = read_header(folder)
        self.parts: tuple[TokenPart, ...] = tuple(
            part for part in _MODEL_OF if _is_same(part, found, wanted)
        )
        """The parts that are taken from it."""
        if not self.parts:
            raise DataError(
                f"{folder} holds nothing that these weights would make again. Leave --reuse out."
            )
        self._rows = {
            str(row["clip_id"]): row
            for row in read_rows(folder, ["clip_id", "duration_seconds", *self.parts])
        }
        self._levels: Mapping[TokenPart, int] = {
            "semantic": wanted.semantic.num_quantizers,
            "acoustic": wanted.acoustic.num_quantizers,
        }
        self._embedding_dim = wanted.embedding_dim

    def of(
        self, part: TokenPart, clip_id: str, duration_seconds: float
    ) -> NDArray[np.generic] | None:
        """The codes `[quantizers, frames]` or embeddings `[windows, dim]` of a clip.

        None where the store lacks the clip, or has it with another length.
        """
        row: Mapping[str, Any] | None = self._rows.get(clip_id)
        if part not in self.parts or row is None:
            return None
        if abs(row["duration_seconds"] - duration_seconds) > 1e-6:
            return None
        values: NDArray[np.generic] = row[part]
        if part == "embeddings":
            return values.reshape(-1, self._embedding_dim)
        return values.reshape(self._levels[part], -1)


def _is_same(part: TokenPart, found: StoreHeader, wanted: StoreHeader) -> bool:
    """Whether a part was made by the same weights, in the same shape."""
    model = _MODEL_OF[part]
    made_by = found.weight_hashes.get(model)
    if made_by is None or made_by != wanted.weight_hashes.get(model):
        return False
    return all(getattr(found, name) == getattr(wanted, name) for name in _SETTINGS_OF[part])
