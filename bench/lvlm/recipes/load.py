"""Finding a recipe by name: it is the file ``bench/lvlm/recipes/<id>.py``."""

import importlib
from importlib import resources
from typing import Any

from bench.errors import unknown

_SERVING = {"__init__", "contract", "load", "tokens"}


def recipe_ids() -> list[str]:
    """Ids of all recipes."""
    files = [entry.name for entry in resources.files("bench.lvlm.recipes").iterdir() if entry.name.endswith(".py")]
    return sorted({name.removesuffix(".py") for name in files} - _SERVING)


def load_recipe(name: str, where: str) -> Any:
    """The module of a recipe.

    Raises:
        UserError: There is no such recipe; ``where`` is the file and key that name it.
    """
    if name not in recipe_ids():
        raise unknown("recipe", name, recipe_ids(), where)
    return importlib.import_module(f"bench.lvlm.recipes.{name}")
