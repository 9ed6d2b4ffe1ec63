"""The page in a browser, from a file: sorted, filtered and read by mouse and by keyboard, on a desk and on a phone."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from bench.leaderboard.collect import Row
from bench.report.page import write_report
from tests.leaderboard.conftest import House
from tests.report.conftest import report_of

PHONE, DESK = (375, 800), (1280, 900)
PATIENCE_S = 60


class Looker:
    """A browser with the page open.

    Attributes:
        driver: The browser.
        board: Selector of the board that is looked at.
    """

    def __init__(self, driver: Chrome, page: Path, size: tuple[int, int], scheme: str = "light") -> None:
        self.driver, self.board = driver, "#nap_1 table.board"
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get(page.as_uri())
        self.wait("return document.querySelectorAll('table.board.dataTable').length > 0")

    def wait(self, script: str) -> None:
        WebDriverWait(self.driver, PATIENCE_S).until(lambda driver: driver.execute_script(script))

    def ask(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def column(self, number: int) -> list[str]:
        cells = self.driver.find_elements(By.CSS_SELECTOR, f"{self.board} tbody tr > :nth-child({number})")
        return [cell.get_attribute("textContent").strip() for cell in cells]

    def heading(self, name: str) -> int:
        names = self.ask(
            f"[...document.querySelectorAll('{self.board} thead .dt-column-title')].map(e => e.textContent)"
        )
        return names.index(name) + 1

    def sort(self, name: str) -> WebElement:
        """The button that sorts a column."""
        return self.find(f"{self.board} thead th:nth-child({self.heading(name)}) .dt-column-order")

    def sort_by(self, name: str, direction: str) -> None:
        """Click on the button and wait for the rows, which are sorted a moment later."""
        self.sort(name).click()
        self.wait(f"return document.querySelector('{self.board} thead [aria-sort={direction}]') !== null")

    def filter(self, name: str) -> WebElement:
        """The button that opens the filter of a column."""
        return self.find(f"{self.board} thead th:nth-child({self.heading(name)}) .dtcc-button")

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def press(self, *keys: str) -> None:
        for key in keys:
            self.focused().send_keys(key)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A suite with results that differ, some of them not numbers, and its page."""
    house = House(tmp_path_factory.mktemp("varied"))
    house.fill()
    for number, (defense, dataset) in enumerate((d, s) for d in ("none", "nap") for s in ("shapes", "digits")):
        for attack in ("clean", "pgd", "autoattack"):
            house.put("robust", defense, attack, "1" * (number + 1) + "0" * (9 - number), dataset=dataset)
    house.put("robust", "nap", "pgd", state="diverged", reason="the loss was NaN")
    house.put("backdoor", "rvpt", "trigger", "1000", checkpoint="badnet", flags=("nan",))
    house.collect()
    write_report(house.suite, house.paths, report_of(house), samples=0)
    return house


@pytest.fixture
def desk(driver: Chrome, varied: House) -> Iterator[Looker]:
    """The page on a desk; afterwards nothing may have gone wrong or been asked from elsewhere."""
    driver.get_log("browser")
    looker = Looker(driver, report_of(varied), DESK)
    yield looker
    assert driver.get_log("browser") == []
    loaded = looker.ask("performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


def test_charts_are_drawn_and_described(desk) -> None:
    desk.wait("return document.querySelectorAll('.chart svg').length == document.querySelectorAll('.chart').length")
    assert desk.ask("document.querySelectorAll('.chart svg').length") == 3
    assert desk.find(".chart svg").get_attribute("aria-label") or desk.find(".chart [aria-label]")
    assert desk.ask("document.querySelectorAll('.chart svg path[aria-label]').length") > 5


def test_a_board_is_sorted_by_number(desk) -> None:
    measured = desk.heading("Measured")
    desk.sort_by("Measured", "ascending")
    found = desk.column(measured)
    # What has no number comes first.
    assert [text for text in found if text == "diverged"] == found[: found.count("diverged")]
    numbers = [float(text) for text in found[found.count("diverged") :]]
    assert len(set(numbers)) > 3
    assert numbers == sorted(numbers)
    desk.sort_by("Measured", "descending")
    assert [float(text) for text in desk.column(measured)[: len(numbers)]] == sorted(numbers, reverse=True)


def test_a_board_is_filtered_by_typing(desk) -> None:
    assert len(desk.column(1)) == 16
    desk.find("#nap_1 .dt-search input").send_keys("nap digits")
    assert set(desk.column(desk.heading("Defense"))) == {"nap"}
    assert set(desk.column(desk.heading("Dataset"))) == {"digits"}
    assert len(desk.column(1)) == 4


def test_a_board_is_filtered_by_column(desk) -> None:
    desk.filter("Threat model").click()
    desk.find(".dtcc-dropdown .dtcc-list-buttons button[aria-label='none']").click()
    assert set(desk.column(desk.heading("Metric"))) == {"CA"}
    assert len(desk.column(1)) == 4


def test_sorting_filtering_and_details_need_no_mouse(desk) -> None:
    desk.driver.execute_script("arguments[0].focus()", desk.find("#nap_1 .dt-search input"))
    desk.press(Keys.TAB)
    assert desk.focused() == desk.sort("Defense")
    desk.press(Keys.ENTER)
    desk.wait(f"return document.querySelector('{desk.board} thead [aria-sort=ascending]') !== null")
    assert desk.column(1) == sorted(desk.column(1))
    assert desk.find(f"{desk.board} thead th").get_attribute("aria-sort") == "ascending"
    desk.press(Keys.TAB)
    assert desk.focused() == desk.filter("Defense")
    desk.press(Keys.ENTER)
    for _ in range(10):
        if desk.focused().get_attribute("aria-label") == "nap":
            break
        desk.press(Keys.TAB)
    desk.press(Keys.ENTER)
    assert set(desk.column(1)) == {"nap"}
    desk.press(Keys.ESCAPE)
    more = desk.find(f"{desk.board} td.more button")
    desk.driver.execute_script("arguments[0].focus()", more)
    desk.press(Keys.ENTER)
    details = desk.find(f"{desk.board} [popover]")
    assert details.is_displayed()
    assert "Run it again" in details.text
    desk.press(Keys.ESCAPE)
    assert not details.is_displayed()


def test_a_flag_says_on_hover_what_it_means(desk) -> None:
    flag = desk.find("#rvpt_1 abbr.flag")
    assert flag.text == "nan"
    assert "returned NaN" in flag.get_attribute("title")


def test_on_a_phone_nothing_leaves_the_page_and_numbers_are_in_sight(driver, varied) -> None:
    phone = Looker(driver, report_of(varied), PHONE)
    phone.wait("return document.querySelectorAll('.chart svg').length == 3")
    assert phone.ask("document.documentElement.scrollWidth") <= PHONE[0]
    boxes = phone.ask(
        f"[...document.querySelectorAll('{phone.board} td.measured')].map(e => e.getBoundingClientRect())"
        ".map(box => [box.left, box.right])"
    )
    assert len(boxes) == 16
    assert all(0 <= left < right <= PHONE[0] for left, right in boxes)
    # A wide table scrolls in its own frame.
    frame, wide = (
        phone.ask(f"document.querySelector('#nap_1 .paper .scroll').{name}") for name in ("clientWidth", "scrollWidth")
    )
    assert frame <= PHONE[0]
    assert wide >= frame
    assert phone.ask("[...document.querySelectorAll('.chart svg')].every(e => e.getBoundingClientRect().right <= 375)")


def test_defenses_are_ranked_and_tables_tell_more_on_hover(desk) -> None:
    ranks = [row.text for row in desk.driver.find_elements(By.CSS_SELECTOR, "#rvpt_1 .ranks tbody tr")]
    assert [text.split()[:2] for text in ranks] == [["1", "none"], ["1", "rvpt"]]
    tile = desk.find("#nap_1 .layout tbody:first-of-type .tile")
    assert tile.get_attribute("title").startswith(f"{tile.text} [")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_stand_out_from_their_tiles(driver, varied, scheme) -> None:
    looker = Looker(driver, report_of(varied), DESK, scheme)
    worst = looker.ask(
        """[...document.querySelectorAll('.tile:not(.none)')].map(tile => {
          const canvas = new OffscreenCanvas(1, 1).getContext('2d');
          canvas.fillStyle = getComputedStyle(tile).backgroundColor;
          canvas.fillRect(0, 0, 1, 1);
          return [getComputedStyle(tile).color, `rgb(${canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).join(', ')})`];
        })"""
    )
    assert len(worst) > 10
    for text, ground in worst:
        dim, bright = sorted((luminance(text), luminance(ground)))
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, ground


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(driver, varied, scheme) -> None:
    looker = Looker(driver, report_of(varied), DESK, scheme)
    ground = luminance(looker.ask("getComputedStyle(document.body).backgroundColor"))
    assert (ground < 0.5) == (scheme == "dark")
    for selector in (
        "body",
        ".lead",
        "caption",
        "td.measured",
        "td.interval",
        ".state",
        "nav a",
        "thead th",
        "td button",
        ".key",
        ".tile.none",
    ):
        text = luminance(looker.ask(f"getComputedStyle(document.querySelector('{selector}')).color"))
        bright, dim = max(text, ground), min(text, ground)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, selector


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of an opaque CSS colour."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_ten_thousand_rows_load_sort_and_filter(driver, house) -> None:
    rows = many_cells(house, 10_000)
    driver.get_log("browser")
    write_report(house.suite, house.paths, report_of(house), samples=0)
    looker = Looker(driver, report_of(house), DESK)
    looker.wait("return document.querySelector('#nap_1 .dt-info').textContent.includes('10,000')")
    looker.sort_by("Measured", "ascending")
    values = sorted(row.value for row in rows)
    assert looker.column(looker.heading("Measured")) == [
        f"{float(value):.1f}" for value in sorted(map(float, values))[:25]
    ]
    looker.find("#nap_1 .dt-search input").send_keys("d123 ")
    looker.wait("return document.querySelector('#nap_1 .dt-info').textContent.includes('of 40')")
    assert set(looker.column(1)) == {"d123"}
    assert driver.get_log("browser") == []


def many_cells(house: House, count: int) -> list[Row]:
    """A ``cells.csv`` of one track with so many cells: 250 defenses on 40 datasets."""
    dice, datasets = random.Random(1), [f"set{number}" for number in range(40)]
    defenses = ["none", *(f"d{number}" for number in range(1, count // len(datasets)))]
    house.content |= {
        "datasets": {name: {} for name in datasets},
        "tables": {"nap_1": {**house.content["tables"]["nap_1"], "names": {}}},
        "tracks": {
            "robust": {
                "defenses": {name: {} for name in defenses},
                "checkpoints": ["plain"],
                "datasets": datasets,
                "attacks": ["pgd"],
            }
        },
    }
    empty = dict.fromkeys(Row._fields, "")
    rows = [
        Row(
            **empty
            | {"track": "robust", "defense": defense, "checkpoint": "plain", "dataset": dataset, "split": "test"}
            | {"attack": "pgd", "threat_model": "white_box", "seed": "1", "metric": "RA", "state": "done", "n": "1000"}
            | {"hits": "1", "value": f"{100 * dice.random():.4f}", "low": "0.0000", "high": "100.0000"}
        )
        for defense in defenses
        for dataset in datasets
    ]
    with (house.paths.boards / "cells.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([Row._fields, *rows])
    return rows
