"""The page as text: complete, closed to the network, and safe against what stands in the files."""

import re
import sys

import pytest

from bench import cli
from bench.report.page import write_report
from tests.report.conftest import report_of


def test_every_table_is_a_board_with_a_caption_and_headings(house, page) -> None:
    text = page()
    assert text.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in text
    for name, spec in house.suite.tables.items():
        assert f'<section id="{name}"' in text
        assert spec.title in text
    boards = re.findall(r'<table class="board".*?</table>', text, flags=re.S)
    assert [board.count("<caption>") for board in boards] == [1] * len(house.suite.tables)
    assert [board.count('<th scope="row">') for board in boards] == [16, 8]


def test_nothing_is_loaded_from_anywhere(page) -> None:
    text = page()
    markup = re.sub(r"<(script|style)\b[^>]*>.*?</\1>", "", text, flags=re.S)
    addresses = re.findall(r"""\b(?:src|href|action|poster|data)\s*=\s*["']?([^"'>\s]*)""", markup)
    assert addresses
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, flags=re.S))
    assert [url for url in re.findall(r"""url\(["']?([^"')]*)""", styles) if not url.startswith("data:")] == []
    assert re.findall(r'<script[^>]*src|from "(?!data:text/javascript;base64,)', text) == []


def test_the_same_files_give_the_same_page(page) -> None:
    assert page() == page()


def test_text_of_the_files_is_never_markup(house, page) -> None:
    nasty = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
    house.content["tables"]["nap_1"] |= {"title": nasty, "names": {"pgd": nasty}}
    house.put("robust", "nap", "pgd", state="failed", reason=nasty)
    house.collect()
    text = page()
    assert "onerror=alert(1)" in text
    assert "<img src=x" not in text
    assert 'alert("x")' not in text


def test_flags_are_told_on_hover_and_in_the_legend(house, page) -> None:
    house.put("robust", "nap", "pgd", "1000", flags=("zero_gradient",))
    house.collect()
    text = page()
    meaning = "some images had no input gradient at all, so attacks that follow it are too weak"
    assert f'<abbr class="flag" title="{meaning}">zero gradient</abbr>' in text
    assert f"<dd>S{meaning[1:]}.</dd>" in text


def test_what_is_missing_is_told_with_its_command(house, page) -> None:
    assert "Every cell that the suite asks for has a number." in page()
    house.put("robust", "nap", "pgd", state="diverged", reason="the loss was NaN")
    (house.paths.evaluated("backdoor", "rvpt", "trigger") / "badnet.shapes.test.seed1.json").unlink()
    house.collect()
    house.content["tracks"]["backdoor"]["defenses"]["late"] = {}
    section = page().partition('id="missing"')[2]
    for what, state in (
        ("nap under pgd (robust)", "diverged"),
        ("rvpt under trigger (backdoor)", "missing"),
        ("late under clean (backdoor)", "not collected"),
    ):
        assert re.search(rf'{re.escape(what)}</th><td class="state">{state}</td>', section)
    assert "dvc repro" in section


def test_where_a_question_does_not_apply_nothing_is_missing(house, page) -> None:
    house.put("backdoor", "rvpt", "trigger", state="not_applicable", reason="no prompts of words")
    house.collect()
    for name in house.suite.tables:
        house.table(name)
    assert "Every cell that the suite asks for has a number." in page()


def test_pictures_of_analyses_are_on_the_page(house, page) -> None:
    house.content["analyses"] = {"attention": {"method": "attention", "title": "Where it looks"}}
    picture = b"\x89PNG..."
    (house.paths.boards / "attention.png").write_bytes(picture)
    text = page()
    assert 'src="data:image/png;base64,iVBORy4uLg=="' in text
    assert "<h3>Where it looks</h3>" in text
    assert 'alt="Figure attention; its numbers are in attention.csv"' in text


def test_tables_of_analyses_are_on_the_page_and_are_only_text(house, page) -> None:
    house.content["analyses"] = {"costs": {"method": "costs", "title": "What it costs"}}
    markdown = "# What it costs\n\n| model | time |\n|---|--:|\n| <b>nap</b> | 3 s |\n\nTime is measured.\n"
    (house.paths.boards / "costs.md").write_text(markdown)
    text = page()
    assert text.count("What it costs") == 1
    assert "<td>&lt;b&gt;nap&lt;/b&gt;</td>" in text
    assert "<p>Time is measured.</p>" in text


def test_an_analysis_that_can_be_drawn_is_drawn(house, page) -> None:
    house.content["analyses"] = {"shots": {"method": "curves", "title": "Accuracy by shots"}}
    (house.paths.boards / "shots.png").write_bytes(b"\x89PNG...")
    (house.paths.boards / "shots.csv").write_text(
        "panel,line,x,kind,value,low,high\nshots,badnet,1,ASR,60,55,65\nshots,badnet,16,ASR,20,15,25\n"
    )
    text = page()
    assert "Figure shots" not in text
    assert "<h3>Accuracy by shots</h3>" in text


def test_published_values_stand_beside_measured_ones(house, page) -> None:
    assert "no published value belongs to these cells" in page()
    (house.paths.boards / "nap_1.long.csv").write_text(
        "track,checkpoint,dataset,split,metric,attack,defense,state,published,worst_known\n"
        "robust,plain,shapes,test,RA,pgd,nap,done,45.5,12.5\n"
        ",,caltech101,,RA,pgd,nap,-,33.1,\n"
    )
    text = page()
    assert re.search(
        r'published numbers of nap_1</th><td class="state">not measured</td><td class="number">1</td>', text
    )
    for kind, number in (("published", "45.5"), ("gap", "-20.5"), ("worst", "12.5")):
        assert re.search(rf'<td class="number {kind}" data-order="-?[\d.]+">{re.escape(number)}</td>', text)


def test_the_report_needs_the_collected_cells(house, capsys) -> None:
    (house.paths.boards / "cells.csv").unlink()
    with pytest.raises(cli.UserError, match=r"cells\.csv is missing; make it with: bench collect"):
        write_report(house.suite, house.paths, report_of(house), samples=0)


def test_without_its_packages_the_command_says_how_to_install_them(capsys, monkeypatch) -> None:
    monkeypatch.setattr("bench.report.libraries._PACKAGES", ("jinja2", "no_such_package"))
    monkeypatch.setattr(sys, "argv", ["bench", "report"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "(no_such_package); install them with: pip install 'vlm-robust-bench[report]'" in message
