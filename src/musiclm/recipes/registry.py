"""Recipes by name."""

from collections.abc import Callable
from typing import Literal, get_args

from musiclm.core.errors import ConfigError
from musiclm.recipes.mini import mini
from musiclm.recipes.paper import paper
from musiclm.recipes.recipe import Recipe
from musiclm.recipes.tiny import tiny

RecipeName = Literal["tiny", "mini", "paper"]
_RECIPES: dict[str, Callable[[], Recipe]] = {"tiny": tiny, "mini": mini, "paper": paper}


def load_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in _RECIPES:
        raise ConfigError(f"No recipe {name!r}. Choose {', '.join(get_args(RecipeName))}.")
    return _RECIPES[name]()
