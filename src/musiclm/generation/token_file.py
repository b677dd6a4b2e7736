"""Tokens of one piece in memory and on disk: what `encode` writes and `decode` reads."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from musiclm.core.errors import DataError
from musiclm.core.files import written_whole

FORMAT = "musiclm-tokens-1"


@dataclass(frozen=True)
class TokenSet:
    """All the tokens of one piece.

    Attributes:
        conditioning: MuLan tokens, one a level.
        semantic: 25 a second.
        acoustic: Codec codes, 50 frames a second.
        num_samples: Length of the audio they stand for, at 24 kHz.
        melody: The tune in time with the semantic tokens, 25 frames a second; frames without it
            hold the size of the codebook. None where there is no tune, or the model hears none.
    """

    conditioning: Int[Tensor, " levels"]
    semantic: Int[Tensor, " semantic_frames"]
    acoustic: Int[Tensor, "quantizers frames"]
    num_samples: int
    melody: Int[Tensor, "melody_levels melody_frames"] | None = None

    def write(self, path: Path | str) -> None:
        """Writes a `.safetensors` file, whole or not at all."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise DataError(
                f"Tokens are kept in .safetensors files; {path.name} is named otherwise."
            )
        tensors = {
            "conditioning": self.conditioning,
            "semantic": self.semantic,
            "acoustic": self.acoustic,
        }
        if self.melody is not None:
            tensors["melody"] = self.melody
        small = {name: tensor.to(torch.int16).contiguous() for name, tensor in tensors.items()}
        metadata = {"format": FORMAT, "num_samples": str(self.num_samples)}
        with written_whole(path) as temporary:
            save_file(small, temporary, metadata=metadata)

    @classmethod
    def read(cls, path: Path | str) -> "TokenSet":
        """Reads what `write` wrote.

        Raises:
            DataError: The file is missing, damaged or no token file.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"No token file at {path}. Make one with `musiclm encode`.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise DataError(f"{path} is no token file (wanted format {FORMAT}).")
                names = ("conditioning", "semantic", "acoustic")
                conditioning, semantic, acoustic = (file.get_tensor(name).long() for name in names)
                has_melody = "melody" in file.keys()  # noqa: SIM118  (a file is no mapping)
                melody = file.get_tensor("melody").long() if has_melody else None
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is damaged ({error}). Encode the audio again.") from error
        return cls(conditioning, semantic, acoustic, int(metadata["num_samples"]), melody)
