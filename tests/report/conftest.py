"""A page of a small suite, made without models or images, and a browser to look at it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from bench.leaderboard.collect import write_cells
from bench.report.page import write_report
from tests.leaderboard.conftest import House

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
# Nothing is asked from anywhere, and nothing is left behind.
FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A suite whose every cell has a record, and its ``cells.csv``."""
    made = House(tmp_path)
    made.fill()
    made.collect()
    return made


@pytest.fixture
def page(house: House) -> Callable[[], str]:
    """Makes the page of ``house`` and returns its text."""

    def write() -> str:
        write_report(house.suite, house.paths, report_of(house), samples=0)
        return report_of(house).read_text("utf-8")

    return write


def report_of(house: House) -> Path:
    return house.paths.boards / "report.html"


def collected(house: House) -> House:
    """``house`` with its ``cells.csv`` made again."""
    write_cells(house.suite, house.paths)
    return house


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a fresh profile."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield browser
        finally:
            browser.quit()
