"""Where a paper's tables disagree with themselves: averages, gains, and numbers that are printed more than once.

Printed numbers are rounded, so a recomputed number may differ by as much as all roundings together explain.
"""

from typing import Any

import pandas as pd

from bench.leaderboard.published import AVERAGE, IDS

_GAIN = "_gain"
_OVER = r"(?:^|;)over=([^;]+)"
_PLACE = ["table", "row", "column", "metric"]
_FLOAT_SLACK = 1e-9


def disagreeing_averages(published: pd.DataFrame) -> pd.DataFrame:
    """Printed averages that are not the mean of their row.

    An average whose row has no other numbers of its kind, such as a table that shows averages only, is left out.

    Args:
        published: From ``read_published``.

    Returns:
        Where the average stands, what is ``printed`` and with how many ``decimals``, what is ``recomputed``, and the
        ``difference`` of the two.
    """
    series = ["table", "row", *(name for name in IDS if name != "dataset")]
    numbers = published.assign(slack=_rounding(published))
    averages = numbers["dataset"] == AVERAGE
    # pandas' own mean would leave an unreadable number out; this one is NaN, which disagrees.
    means = (
        numbers[~averages].groupby(series, as_index=False)[["value", "slack"]].agg(lambda part: part.to_numpy().mean())
    )
    return _disagreeing(numbers[averages].merge(means, on=series, suffixes=("", "_expected")))


def disagreeing_gains(published: pd.DataFrame) -> pd.DataFrame:
    """Printed gains that are not the difference of two numbers of the same table.

    Args:
        published: From ``read_published``.

    Returns:
        As ``disagreeing_averages``.
    """
    same = ["table", *IDS]
    numbers = published.assign(slack=_rounding(published))
    gains = numbers[numbers["metric"].str.endswith(_GAIN)]
    wanted = gains.assign(
        metric=gains["metric"].str.removesuffix(_GAIN),
        setting=gains["setting"].str.replace(_OVER, "", regex=True).str.removeprefix(";"),
        over=gains["setting"].str.extract(_OVER, expand=False),
    )
    sides = numbers[[*same, "value", "slack"]]
    wanted = wanted.merge(sides, how="left", on=same, suffixes=("", "_own"))
    sides = sides.rename(columns={"defense": "over"})
    keys = ["over" if name == "defense" else name for name in same]
    wanted = wanted.merge(sides, how="left", on=keys, suffixes=("", "_over"))
    wanted["value_expected"] = wanted["value_own"] - wanted["value_over"]
    wanted["slack_expected"] = wanted["slack_own"] + wanted["slack_over"]
    return _disagreeing(wanted.assign(metric=wanted["metric"] + _GAIN))


def disagreeing_repeats(published: pd.DataFrame) -> pd.DataFrame:
    """Numbers that are printed more than once, by their ids, and not alike.

    Args:
        published: From ``read_published``.

    Returns:
        The ids, and ``printed``: each table with its number. Numbers are compared with the fewest decimals printed.
    """
    named = published[(published["dataset"] != "") & published["value"].notna()]
    found = list[dict[str, Any]]()
    for ids, group in named.groupby(list(IDS)):
        if group["value"].round(int(group["decimals"].min())).nunique() > 1:
            printed = [f"{line.table} {line.value:.{line.decimals}f}" for line in group.itertuples()]
            found.append(dict(zip(IDS, ids, strict=True)) | {"printed": ", ".join(printed)})
    return pd.DataFrame(found, columns=[*IDS, "printed"])


def _rounding(published: pd.DataFrame) -> pd.Series:
    """Half a unit of the last printed decimal."""
    return 0.5 * 10.0 ** -published["decimals"]


def _disagreeing(numbers: pd.DataFrame) -> pd.DataFrame:
    difference = numbers["value"] - numbers["value_expected"]
    # Written so that NaN disagrees.
    agrees = difference.abs() <= numbers["slack"] + numbers["slack_expected"] + _FLOAT_SLACK
    told = numbers[[*_PLACE, "decimals"]].assign(
        printed=numbers["value"], recomputed=numbers["value_expected"], difference=difference
    )
    return told[~agrees].reset_index(drop=True)
