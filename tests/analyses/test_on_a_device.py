"""Every analysis measures the same on a device as on the processor."""

from typing import Any

import pandas as pd
import pytest

from bench.analyses.contract import Source
from bench.items import load_item
from tests.analyses.test_run import ANALYSES
from tests.pretend_device import NAME, pretending

# These read cards and cells, and open no model.
READING = {"bars", "costs", "curves", "datasets", "triggers"}
OTHERS: dict[str, dict[str, Any]] = {"resistivity": {"features": "class_token"}}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("method", [method for method in ANALYSES if method not in READING])
def test_every_analysis_measures_the_same(method: str, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_item("analyses", method, "test")
    options = module.Options(**ANALYSES[method] | OTHERS.get(method, {}))
    expected: pd.DataFrame = module.measure(source, options)
    monkeypatch.setenv("BENCH_DEVICE", NAME)
    # What is loaded takes the place of values that layers draw where they are made.
    with pretending(drawn=True):
        found: pd.DataFrame = module.measure(source, options)
    # Maps of t-SNE have no two runs alike that begin a little apart.
    compared = expected.columns.difference(["x", "y"], sort=False)
    pd.testing.assert_frame_equal(found[compared], expected[compared], rtol=1e-2, atol=1e-3)
