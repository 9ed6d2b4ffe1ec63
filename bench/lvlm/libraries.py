"""Whether the packages are there that only large vision-language models need. Light: nothing is imported."""

from importlib.util import find_spec

from bench.errors import UserError

_PACKAGES = ("transformers", "peft")


def lacking() -> list[str]:
    """The packages that are not installed."""
    return [name for name in _PACKAGES if find_spec(name) is None]


def check_libraries() -> None:
    """Check that these models can be run.

    Raises:
        UserError: A package is missing.
    """
    if names := lacking():
        raise UserError(
            f"large vision-language models need packages that are not installed ({', '.join(names)}); "
            "install them with: pip install 'vlm-robust-bench[lvlm]'"
        )
