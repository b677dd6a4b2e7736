"""Weights on disk: one JSON config and one safetensors file a component, never a pickle.

Storage kinds: `float32` keeps training exact; `float16` halves it; `int8` keeps matrices as
8-bit integers with one float32 scale a row (absolute maximum / 127) and the rest as float16.
A tensor too large for float16 stays as it is.
Everything comes back as float32.
"""

import errno
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from musiclm.core.errors import CheckpointError
from musiclm.core.files import written_whole

FORMAT_VERSION = 1
Storage = Literal["float32", "float16", "int8"]
_SCALE_SUFFIX = ".int8_scale"


def _pack(name: str, tensor: Tensor, storage: Storage) -> dict[str, Tensor]:
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point() or storage == "float32":
        return {name: tensor.clone()}
    if storage == "int8" and tensor.ndim == 2 and min(tensor.shape) > 1:
        scale = tensor.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        return {
            name: (tensor.float() / scale).round().to(torch.int8),
            name + _SCALE_SUFFIX: scale.squeeze(1),
        }
    half = tensor.half()
    return {name: half if bool(half.isfinite().all()) else tensor.clone()}


def _unpack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    unpacked: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE_SUFFIX):
            continue
        scale = tensors.get(name + _SCALE_SUFFIX)
        if scale is not None:
            unpacked[name] = tensor.float() * scale[:, None]
        else:
            unpacked[name] = tensor.float() if tensor.is_floating_point() else tensor
    return unpacked


def save_weights(
    module: nn.Module, path: Path, *, config_json: str, storage: Storage = "float32"
) -> None:
    """Writes a module's state and its config to one safetensors file, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        tensors.update(_pack(name, tensor, storage))
    metadata = {"format_version": str(FORMAT_VERSION), "config": config_json}
    with written_whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(errno.ENOSPC, str(error)) from error


def read_config_json(path: Path) -> str:
    """The config text stored in a weight file.

    Raises:
        CheckpointError: The file is missing, truncated or not one of ours.
    """
    return _read_metadata(path)["config"]


def storage_of(path: Path) -> Storage:
    """The storage kind that a weight file was written with.

    Raises:
        CheckpointError: The file is missing, truncated or not one of ours.
    """
    _read_metadata(path)
    with safe_open(path, framework="pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    if any(name.endswith(_SCALE_SUFFIX) for name in kinds):
        return "int8"
    return "float16" if "F16" in kinds.values() else "float32"


def load_weights(module: nn.Module, path: Path, *, spare: Collection[str] = ()) -> None:
    """Fills a module from what `save_weights` wrote.

    Args:
        module: What is filled, whole.
        path: The file.
        spare: Names that the file may hold though the module does not: a part that it goes without.

    Raises:
        CheckpointError: The file is missing, truncated, foreign, or does not fit the module.
    """
    _read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = _unpack({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Fetch or train it again.") from error
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path} lacks {name!r}: it holds another model's weights.")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name!r} is {list(tensors[name].shape)}, the config says "
                f"{list(tensor.shape)}. Use the config the weights were trained with."
            )
    extra = sorted(set(tensors) - set(expected) - set(spare))
    if extra:
        raise CheckpointError(f"{path} holds {extra[0]!r}, which this model does not have.")
    module.load_state_dict({name: tensors[name] for name in expected})


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise CheckpointError(f"No weights at {path}. Check the model folder, or run `make model`.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). Fetch or train it again."
        ) from error
    if metadata.get("format_version") != str(FORMAT_VERSION) or "config" not in metadata:
        raise CheckpointError(
            f"{path} was not written by musiclm (format version "
            f"{metadata.get('format_version', 'absent')}, wanted {FORMAT_VERSION})."
        )
    return metadata
