"""Where the published MusicNN weights are found: the `musicnn` wheel, installed or as a file.

The package itself is never imported (it wants TensorFlow and an old numpy); only its checkpoint
files are read. They are ISC-licensed and stay where the user put them.
"""

import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np

from musiclm.core.errors import CheckpointError, DependencyError
from musiclm.evaluation.tensor_bundle import read_tensor_bundle

WHEEL_VARIABLE = "MUSICLM_MUSICNN_WHEEL"
INSTALL_COMMAND = "pip install --no-deps musicnn==0.1.0"
_INDEX_NAME = ".index"
_DATA_NAME = ".data-00000-of-00001"


def read_musicnn_checkpoint(name: str, place: Path | None = None) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint of the package, `MTT_musicnn` or `MSD_musicnn`.

    Looked for in `place` if given, else where the environment variable `MUSICLM_MUSICNN_WHEEL`
    says, else in the installed package. A place is the wheel or the package's folder.

    Raises:
        DependencyError: The weights are nowhere; the message holds the command that gets them.
        CheckpointError: What was found cannot be read.
    """
    if place is None and (variable := os.environ.get(WHEEL_VARIABLE)):
        place = Path(variable)
    place = place or _installed_folder()
    if place is None or not place.exists():
        where = f"not at {place}" if place else "not installed"
        raise DependencyError(
            f"MusicNN's weights (29 MB, ISC) are {where}: run `{INSTALL_COMMAND}`, or set "
            f"{WHEEL_VARIABLE} to the downloaded wheel."
        )
    try:
        index, data = (_read_file(place, name, file) for file in (_INDEX_NAME, _DATA_NAME))
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{place} holds no readable {name} ({error}). Get it with `{INSTALL_COMMAND}`."
        ) from error
    return read_tensor_bundle(index, data)


def _installed_folder() -> Path | None:
    spec = importlib.util.find_spec("musicnn")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _read_file(place: Path, folder: str, name: str) -> bytes:
    if place.is_dir():
        return (place / folder / name).read_bytes()
    with zipfile.ZipFile(place) as wheel:
        return wheel.read(f"musicnn/{folder}/{name}")
