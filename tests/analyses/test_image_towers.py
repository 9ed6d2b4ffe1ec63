"""What large models see with, as the suites name them."""

from pathlib import Path

import pytest

from bench.analyses import image_towers
from bench.analyses.contract import Source
from bench.analyses.run import read_frame, to_csv
from bench.config import load_suite
from bench.items import item_options
from bench.paths import paths_for

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("suite", "rows"),
    [
        (
            "r_adapt",
            [
                ["LLaVA", "CLIP ViT-L-14-336-quickgelu", "llava-hf/llava-1.5-7b-hf", "hub"],
                ["Qwen3-VL", "ViT with DeepStack", "Qwen/Qwen3-VL-8B-Instruct", "hub"],
            ],
        ),
        (
            "r_adapt_lvlm_mini",
            [
                ["mini_llava", "CLIP mini", "none: this project's own", "shipped"],
                ["small Qwen3-VL", "not implemented", "not implemented", "not implemented"],
            ],
        ),
    ],
)
def test_table_10_has_the_papers_models_and_the_mini_suites(suite: str, rows: list[list[str]], tmp_path: Path) -> None:
    paths = paths_for(ROOT / "leaderboards" / suite / "benchmark.yaml")
    source = Source(load_suite(paths.suite), paths, "table_10")
    options = item_options(image_towers, source.suite.analyses["table_10"].options, "test")
    assert isinstance(options, image_towers.Options)
    path = tmp_path / "frame.csv"
    path.write_text(to_csv(image_towers.measure(source, options)))
    lines = image_towers.table(read_frame(path), options).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "Vision Encoder", "Huggingface ID", "weights here"]
    assert cells[2:] == rows


def test_a_checkpoint_that_is_not_there_is_told() -> None:
    suite = load_suite(ROOT / "leaderboards/r_adapt/benchmark.yaml")
    (fault,) = image_towers.CheckpointReference(checkpoint="lava").faults(suite, "here")
    assert "unknown checkpoint 'lava'" in fault
    assert "llava" in fault
