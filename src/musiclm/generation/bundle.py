"""A model folder: `config.json` and one safetensors file for every part."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import Field

from musiclm.core.config import Config
from musiclm.core.errors import CheckpointError
from musiclm.core.files import write_text_whole
from musiclm.core.pretrained import sha256_of_file
from musiclm.generation.prompt import Temperatures

CONFIG_NAME = "config.json"
BUNDLE_VERSION: Literal[1] = 1
PART_NAMES = ("codec", "semantic", "mulan", "semantic_stage", "coarse_stage", "fine_stage")
OPTIONAL_PART_NAMES = ("melody",)


class BundleConfig(Config):
    """What `config.json` says."""

    format_version: Literal[1] = BUNDLE_VERSION
    """Of this file."""
    name: str
    """Name of the model, such as `mini`."""
    guidance: float = Field(default=1.0, ge=0, le=20)
    """What generations take that say nothing else; above 1 needs stages that were trained with
    their conditioning left out at times."""
    coarse_guidance: float | None = Field(default=None, ge=0, le=20)
    """Likewise, of the coarse stage; that of all by default."""
    melody_guidance: float | None = Field(default=None, ge=0, le=20)
    """Likewise, of melodies; that of the rest of the prompt by default."""
    temperatures: Temperatures = Temperatures()
    """Likewise."""
    num_levels: int | None = Field(default=None, ge=1, le=64)
    """Acoustic levels that generations have which say nothing else; all by default. A young fine
    stage may add more noise than detail."""
    parts: Mapping[str, str] = Field(default={name: f"{name}.safetensors" for name in PART_NAMES})
    """File of every part, relative to the folder."""


def find_bundle(name_or_path: str | Path | None) -> Path:
    """The folder of a model: the bundled one (None), a path, or a hub id `owner/name`.

    Raises:
        CheckpointError: There is no such folder, or the hub cannot be reached.
    """
    if name_or_path is None:
        return Path(str(files("musiclm"))) / "assets" / "mini"
    path = Path(name_or_path)
    if path.is_dir():
        return path
    text = str(name_or_path)
    if path.is_absolute() or text.count("/") != 1 or text.startswith("."):
        raise CheckpointError(f"No model folder at {text}. Give a folder with {CONFIG_NAME}.")
    try:
        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{text} is neither a folder nor a model the hub gives ({type(error).__name__}). "
            "Check the name and the connection."
        ) from error


def read_bundle_config(folder: Path) -> BundleConfig:
    """Reads and checks `config.json`; optional parts that lie in the folder are named too.

    Raises:
        CheckpointError: The file or one of the parts is missing.
        ConfigError: The file does not say what it should.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} is no model: it has no {CONFIG_NAME}.")
    config = BundleConfig.from_json(path.read_text(encoding="utf-8"))
    for part in PART_NAMES:
        if part not in config.parts:
            raise CheckpointError(f"{path} names no file for the part {part!r}.")
        if not (folder / config.parts[part]).is_file():
            raise CheckpointError(
                f"{folder} lacks {config.parts[part]} (its {part}). Fetch or train it again."
            )
    found = {name: f"{name}.safetensors" for name in OPTIONAL_PART_NAMES}
    found = {name: file for name, file in found.items() if (folder / file).is_file()}
    return config.model_copy(update={"parts": {**found, **config.parts}})


def write_bundle_config(folder: Path, config: BundleConfig) -> None:
    """Writes `config.json`, whole or not at all."""
    write_text_whole(folder / CONFIG_NAME, config.to_json() + "\n")


def bundle_sha256(folder: Path, config: BundleConfig) -> str:
    """One hash for a model: of its config and of every part's file."""
    digest = hashlib.sha256(config.to_json().encode())
    for part in sorted(config.parts):
        digest.update(sha256_of_file(folder / config.parts[part]).encode())
    return digest.hexdigest()
