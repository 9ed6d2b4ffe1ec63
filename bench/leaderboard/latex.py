"""A table for papers: a ``tabular`` in the style of booktabs, for ``input``."""

from tabulate import tabulate

from bench.leaderboard.pivot import Pivot
from bench.leaderboard.position import Place, Position
from bench.leaderboard.words import written


def latex(pivot: Pivot, found: dict[Place, Position]) -> str:
    """The table as LaTeX, with a comment on top that says what it is.

    Args:
        pivot: The table.
        found: What is known of its positions.
    """
    lines = pivot.lines(lambda row, column: written(found[row, column], pivot.spec.decimals))
    sides = pivot.sides()
    body = tabulate(lines, pivot.header(), tablefmt="latex_booktabs", disable_numparse=True, colalign=sides)
    # Outside of math, older TeX engines know this sign only by a package.
    return f"% {pivot.spec.title}\n% needs \\usepackage{{booktabs}}\n" + body.replace("±", r"$\pm$") + "\n"
