"""What a paper claims of its defense, and whether a table shows it."""

import pytest
import yaml

from bench.config import load_suite
from bench.errors import UserError


@pytest.fixture
def claimed(house):
    """NAP above two others on two datasets, under PGD and AutoAttack; equal to one of them in one place."""
    defenses = {"none": {}, "nap": {"method": "nap_tuning"}, "advpt": {}, "fap": {}}
    house.content["tracks"]["robust"]["defenses"] = defenses
    house.content["tables"]["nap_1"] |= {"above": {"nap": ["advpt", "fap"]}, "only": {"attack": ["clean", "pgd"]}}
    house.content["tables"]["nap_1"]["names"] |= {"nap": "NAP"}
    house.fill("1000")
    for dataset in ("shapes", "digits"):
        house.put("robust", "nap", "pgd", "1110", dataset=dataset)
        house.put("robust", "nap", "clean", "0000", dataset=dataset)
    house.put("robust", "fap", "pgd", "1110", dataset="digits")
    return house


def test_the_notes_tell_where_the_papers_order_does_not_show(claimed) -> None:
    _, text = claimed.table("nap_1")
    assert "The paper's order, NAP above advpt, fap, shows in 3 of 4 comparisons of robust accuracy:" in text
    assert [line for line in text.splitlines() if line.startswith("- not")] == [
        "- not under PGD-100, digits, test: 75.0 against fap's 75.0"
    ]


def test_an_order_that_shows_everywhere_is_told_too(claimed) -> None:
    claimed.put("robust", "nap", "pgd", "1111", dataset="digits")
    _, text = claimed.table("nap_1")
    assert "shows in 4 of 4 comparisons of robust accuracy." in text
    assert "- not under" not in text


def test_what_has_no_number_is_not_compared(claimed) -> None:
    claimed.put("robust", "nap", "pgd", state="failed", dataset="digits")
    _, text = claimed.table("nap_1")
    assert "shows in 2 of 2 comparisons" in text


def test_nothing_is_said_where_nothing_is_claimed(claimed) -> None:
    _, text = claimed.table("rvpt_1")
    assert "The paper's order" not in text


def test_a_claim_about_a_defense_that_is_not_there_is_told(claimed, tmp_path) -> None:
    claimed.content["tables"]["nap_1"]["above"] = {"nap": ["advtp"]}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(claimed.content, sort_keys=False))
    with pytest.raises(UserError, match=r"tables\.nap_1\.above.*'advtp'.*'advpt'"):
        load_suite(path)
