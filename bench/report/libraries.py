"""Whether the packages are there that only the report needs."""

from importlib.util import find_spec

from bench.errors import UserError

_PACKAGES = ("altair", "itables", "jinja2", "markdown_it", "vl_convert")


def check_libraries() -> None:
    """Check that the report can be made.

    Raises:
        UserError: A package is missing.
    """
    lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if lacking:
        raise UserError(
            f"the report needs packages that are not installed ({', '.join(lacking)}); "
            "install them with: pip install 'vlm-robust-bench[report]'"
        )
