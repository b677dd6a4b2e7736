"""musiclm: the open, complete MusicLM."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# Loaded by __getattr__, so a type checker cannot see them here.
__all__ = ["Generation", "MusicLM", "Waveform", "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

_HOMES = {
    "MusicLM": "musiclm.generation.musiclm",
    "Generation": "musiclm.generation.generation",
    "Waveform": "musiclm.audio.waveform",
}


def __getattr__(name: str) -> Any:
    """Loads the public classes on first use, so that `import musiclm` stays quick."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'musiclm' has no attribute {name!r}")
