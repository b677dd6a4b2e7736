"""How inner loops are compiled with numba (the extra `fast`), and where the result is kept."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*, may_reorder: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function when it is first called, and keeps the result on disk if it can."""
    options: dict[str, Any] = {
        "nogil": True,
        "boundscheck": False,
        "error_model": "numpy",
        "fastmath": True if may_reorder else {"contract"},
    }

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        inner = inspect.unwrap(function)  # checks of shapes in tests wrap functions
        try:
            return njit(cache=True, **options)(inner)
        except RuntimeError:  # no folder to write to: neither beside this file nor of the user
            return njit(**options)(inner)

    return decorate
