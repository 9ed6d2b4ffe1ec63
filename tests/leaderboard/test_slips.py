import pandas as pd
import pytest

from bench.leaderboard.published import read_published
from bench.leaderboard.slips import disagreeing_averages, disagreeing_gains, disagreeing_repeats
from tests.leaderboard.published import HEADER, PAPERS, published, section


@pytest.fixture
def tables(tmp_path):
    """A paper of our own, to which each call adds one row: a column for each pair of dataset and value."""

    def make(*values, table="table_1", metric="RA", setting="", defense="fap"):
        path = tmp_path / f"{table}.csv"
        head = path.read_text() if path.exists() else HEADER + "\n"
        lines = [
            f"{table},{defense},{dataset},,clean,{dataset},{defense},pgd,1,{metric},{setting},{value},a note"
            for dataset, value in values
        ]
        path.write_text(head + "\n".join(lines) + "\n")
        return read_published(tmp_path)

    return make


def _written(slips: pd.DataFrame) -> list[list[str]]:
    """Slips as the READMEs write them."""
    return [
        [
            *(slip.table, slip.row, slip.column, slip.metric),
            f"{slip.printed:.{slip.decimals}f}",
            f"{slip.recomputed:.2f}",
            f"{slip.difference:+.2f}",
        ]
        for slip in slips.itertuples()
    ]


@pytest.mark.parametrize("name", PAPERS)
def test_each_readme_lists_the_averages_that_are_no_mean(name):
    assert section(name, "Averages") == _written(disagreeing_averages(published(name)))


@pytest.mark.parametrize("name", PAPERS)
def test_each_readme_lists_the_gains_that_are_no_difference(name):
    assert section(name, "Gains") == _written(disagreeing_gains(published(name)))


@pytest.mark.parametrize("name", PAPERS)
def test_each_readme_lists_the_numbers_that_are_printed_differently(name):
    repeats = disagreeing_repeats(published(name))
    columns = ["dataset", "defense", "attack", "metric", "printed"]
    assert section(name, "Numbers printed more than once") == repeats[columns].to_numpy().tolist()


@pytest.mark.parametrize(("name", "slips"), [("nap_tuning", 39), ("cba_fapt", 0), ("r_adapt", 0)])
def test_the_papers_averages(name, slips):
    assert len(disagreeing_averages(published(name))) == slips


def test_a_misread_digit_shows_in_the_average():
    damaged = published("cba_fapt").copy()
    damaged.loc[(damaged["row"] == "Nat Acc. / FAP") & (damaged["dataset"] == "dtd"), "value"] += 1
    (slip,) = disagreeing_averages(damaged).itertuples()
    assert (slip.row, slip.printed) == ("Nat Acc. / FAP", 47.76)
    assert slip.difference == pytest.approx(-1 / 11, abs=0.01)


@pytest.mark.parametrize(
    ("average", "agrees"),
    [("10.1", True), ("10.2", True), ("10.0", False), ("10.3", False), ("10", True), ("10.15", True), ("10.22", False)],
)
def test_an_average_may_differ_by_the_roundings(tables, average, agrees):
    # The mean is 10.15, and the numbers are known to 0.05 on average.
    numbers = tables(("dtd", "10.1"), ("eurosat", "10.2"), ("average", average))
    assert disagreeing_averages(numbers).empty == agrees


def test_a_slip_says_where_and_how_much(tables):
    (slip,) = disagreeing_averages(tables(("dtd", "10.0"), ("eurosat", "20.0"), ("average", "16.5"))).itertuples()
    assert (slip.table, slip.row, slip.column, slip.metric) == ("table_1", "fap", "average", "RA")
    assert (slip.printed, slip.decimals, slip.recomputed, slip.difference) == (16.5, 1, 15.0, 1.5)


def test_an_average_is_of_its_own_row_and_metric(tables):
    tables(("dtd", "10.0"), ("eurosat", "20.0"), ("average", "15.0"))
    tables(("dtd", "50.0"), ("average", "50.0"), metric="CA")
    numbers = tables(("dtd", "70.0"), ("average", "70.0"), defense="apt")
    assert disagreeing_averages(numbers).empty


def test_an_average_alone_is_left_out_and_one_over_a_lost_number_is_not(tables):
    assert disagreeing_averages(tables(("average", "50.0"))).empty
    numbers = tables(("dtd", "10.0"), ("eurosat", ""), ("average", "10.0"), defense="apt")
    assert len(disagreeing_averages(numbers)) == 1


@pytest.mark.parametrize(
    ("gain", "agrees"), [("4.9", True), ("5.0", True), ("5.2", False), ("4.7", False), ("-4.9", False)]
)
def test_a_gain_is_over_the_defense_it_names(tables, gain, agrees):
    tables(("dtd", "30.0"), defense="apt")
    tables(("dtd", "10.1"))
    tables(("dtd", "15.0"), defense="advvp")
    numbers = tables(("dtd", gain), defense="advvp", metric="RA_gain", setting="over=fap")
    slips = disagreeing_gains(numbers)
    assert slips.empty == agrees
    if not agrees:
        assert (slips.loc[0, "metric"], slips.loc[0, "recomputed"]) == ("RA_gain", pytest.approx(4.9))


def test_a_gain_keeps_the_rest_of_its_setting(tables):
    tables(("dtd", "10.0"), setting="images=5;shots=4")
    tables(("dtd", "15.0"), setting="images=5;shots=4", defense="apt")
    numbers = tables(("dtd", "5.0"), setting="images=5;over=fap;shots=4", metric="RA_gain", defense="apt")
    assert disagreeing_gains(numbers).empty


def test_a_gain_over_something_that_is_not_printed_disagrees(tables):
    numbers = tables(("dtd", "5.0"), metric="RA_gain", setting="over=apt")
    assert len(disagreeing_gains(numbers)) == 1


def test_numbers_of_the_same_ids_are_compared_over_tables(tables):
    tables(("dtd", "10.12"), ("eurosat", "20.0"), ("sun397", "30.5"))
    tables(("dtd", "10.1"), ("eurosat", "20.1"), table="table_2")
    numbers = tables(("sun397", "31.5"), table="table_3", setting="shots=1")
    (slip,) = disagreeing_repeats(numbers).itertuples()
    assert (slip.dataset, slip.printed) == ("eurosat", "table_1 20.0, table_2 20.1")
