"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from musiclm.core.errors import MusicLMError


@contextmanager
def written_whole(path: Path) -> Generator[Path, None, None]:
    """Gives a temporary name beside `path`; renames it to `path` when the block ends well.

    A failure inside the block (a full disk, an exception, an interrupt) removes the temporary
    file and leaves whatever was at `path` untouched.

    Raises:
        MusicLMError: The folder cannot be made or the disk refuses the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
        os.close(handle)
    except OSError as error:
        raise MusicLMError(
            f"Cannot write {path}: {error.strerror}. Choose another place."
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise MusicLMError(
            f"Cannot write {path}: {error.strerror}. Nothing was left behind; free some space "
            "or choose another place."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Writes a text file whole or not at all (UTF-8)."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
