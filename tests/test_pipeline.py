"""The real ``dvc.yaml`` on a small suite in its own repository: what runs, what does not, what a kill costs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

# They share one repository, which one process makes.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]
ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

SMALL = {
    "datasets": {
        "shapes": {"train_per_class": 4, "val_per_class": 2, "test_per_class": 8},
        "digits": {},
        "captions": {"pairs": 64},
    },
    "checkpoints": {
        "clean": {
            "base": {"architecture": "mini", "weights": "shipped"},
            "trigger": "none",
        },
        "badnet": {
            "base": {"architecture": "mini", "weights": "shipped"},
            "trigger": "badnet",
            "trigger_options": {"size": 4},
            "target": "heart",
            "dataset": "shapes",
            "pairs": "captions",
            "poison_rate": 0.1,
            "train": {"learning_rate": 1e-5, "epochs": 1, "batch_size": 32},
            "gate": {"least_asr": 0, "largest_ca_loss": 100},
        },
    },
    "attacks": {
        "clean": {"threat_model": "none"},
        "trigger": {"threat_model": "none"},
        # Long enough to be killed in the middle.
        "pgd": {"threat_model": "white_box", "options": {"eps": 1, "steps": 80}},
        "pgd_6": {"threat_model": "white_box", "method": "pgd", "options": {"eps": 1, "steps": 2}},
        "pgd_6_grey": {"threat_model": "grey_box", "method": "pgd", "options": {"eps": 1, "steps": 2}},
    },
    "protocol": {"version": 1, "batch_size": 8, "seeds": [1], "shots": 4},
    "tracks": {
        "backdoor": {
            "checkpoints": ["badnet"],
            "datasets": ["shapes"],
            "attacks": ["clean"],
            "pairs": "captions",
            "defenses": {"none": {}},
        },
        "adversarial": {
            "checkpoints": ["clean"],
            "datasets": ["shapes"],
            "attacks": ["clean", "pgd"],
            "defenses": {"none": {}, "linear_probe": {"options": {"epochs": 1}}},
        },
        "robust": {
            "checkpoints": ["clean"],
            "datasets": ["shapes"],
            "attacks": ["pgd_6", "pgd_6_grey"],
            "defenses": {"none": {}},
        },
    },
    "tables": {
        "small": {"title": "A table", "tracks": ["adversarial"], "rows": ["attack", "defense"], "columns": ["dataset"]}
    },
}


class Repository:
    """A repository with the project's code and pipeline, and a suite that runs in seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "bench", folder / "bench", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".gitignore", ".dvcignore", "leaderboards/submissions/README.md"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.write_suite(SMALL)
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")

    def write_suite(self, suite: dict) -> None:
        (self.folder / "benchmark.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))

    def environment(self) -> dict[str, str]:
        # The copied package, not the installed one, so that a test may edit an attack.
        return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder), "NO_COLOR": "1"}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stages(self, *options: str) -> set[str]:
        """The stages that ``dvc repro`` runs (with ``--dry``: would run)."""
        return set(re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", *options)))

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("repository"))
    made.stages()
    return made


def test_first_run_makes_every_stage_and_the_second_none(repository: Repository) -> None:
    listed = repository.run("dvc", "stage", "list", "--all", "--name-only").split()
    # 3 datasets, 2 checkpoints, 1 + 2 defenses and a whole track, the attacks, 1 + 4 evaluations and a whole track,
    # collect, 1 table
    assert len(listed) == 3 + 2 + 4 + 1 + 6 + 1 + 1
    assert repository.stages() == set()
    assert (repository.folder / "leaderboards" / "small.md").exists()


def test_adding_a_defense_runs_only_its_own_stages(repository: Repository) -> None:
    own = repository.folder / "bench" / "defenses" / "my_probe.py"
    shutil.copy(repository.folder / "bench" / "defenses" / "linear_probe.py", own)
    suite = yaml.safe_load(repository.read("benchmark.yaml"))
    suite["tracks"]["adversarial"]["defenses"]["my_probe"] = {"options": {"epochs": 1}}
    repository.write_suite(suite)
    ran = repository.stages()
    repository.write_suite(SMALL)
    own.unlink()
    assert ran == {
        "defend_adversarial@my_probe",
        "evaluate_adversarial@my_probe-clean",
        "evaluate_adversarial@my_probe-pgd",
        "collect",
        "table@small",
    }


def test_editing_an_attack_runs_only_that_attack(repository: Repository) -> None:
    attack = repository.folder / "bench" / "attacks" / "pgd.py"
    before = attack.read_text()
    attack.write_text(before + "\n# edited\n")
    ran = repository.stages()
    attack.write_text(before)
    # Only records of these evaluations are new, so what is made from records may run too.
    evaluations = ran - {"collect", "table@small"}
    assert evaluations == {
        "attacks",
        "evaluate_adversarial@none-pgd",
        "evaluate_adversarial@linear_probe-pgd",
        "evaluate@robust",
    }


def test_a_killed_evaluation_goes_on_and_ends_in_the_same_bytes(repository: Repository) -> None:
    repository.stages()
    uninterrupted = repository.read("leaderboards/cells.csv")
    shutil.rmtree(repository.folder / ".bench")
    shutil.rmtree(repository.folder / "results" / "adversarial")
    for cached in ("cache", "tmp"):
        shutil.rmtree(repository.folder / ".dvc" / cached, ignore_errors=True)
    _kill_in_the_middle(repository, "evaluate_adversarial@none-pgd")
    repository.stages()
    assert not list((repository.folder / ".bench").glob("cells/*/*.part.jsonl"))
    assert repository.read("leaderboards/cells.csv") == uninterrupted


def test_the_networks_behind_issba_are_trained_before_its_checkpoint(repository: Repository) -> None:
    home = repository.folder / "leaderboards" / "rvpt_mini"
    home.mkdir()
    shutil.copy(ROOT / "leaderboards" / "rvpt_mini" / "dvc.yaml", home)
    issba = SMALL["checkpoints"]["badnet"] | {"trigger": "issba", "trigger_options": {"least_bit_accuracy": 0}}
    suite = SMALL | {
        "steganography": {"dataset": "captions", "enlarge": 2, "widths": [4, 8], "steps": 1},
        "checkpoints": {"issba": issba},
        "tracks": {"backdoors": SMALL["tracks"]["backdoor"] | {"checkpoints": ["issba"]}},
        "tables": {"small": SMALL["tables"]["small"] | {"tracks": ["backdoors"]}},
        "analyses": {},
    }
    (home / "benchmark.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    own = "leaderboards/rvpt_mini/dvc.yaml:"
    ran = repository.stages(f"{own}checkpoint@issba")
    again = repository.stages(f"{own}checkpoint@issba")
    shutil.rmtree(home)
    assert (ran, again) == ({f"{own}steganography", f"{own}checkpoint@issba"}, set())
    assert (repository.folder / "models" / "rvpt_mini" / "base" / "issba" / "checkpoint.json").exists()


def _kill_in_the_middle(repository: Repository, stage: str) -> None:
    """Run a stage, and kill its whole process group in the middle of a cell; the batches that it kept are whole."""
    process = subprocess.Popen(
        ["dvc", "repro", stage],
        cwd=repository.folder, env=repository.environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        kept = _wait_for_batches(repository.folder / ".bench", process)
    finally:  # also where the wait is over, for it holds the repository's lock
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    part = next((repository.folder / ".bench").glob("cells/*/*.part.jsonl"))
    assert part.read_text().startswith(kept)


def _wait_for_batches(store: Path, process: subprocess.Popen) -> str:
    """The first batches that the running cell has kept."""
    for _ in range(2400):
        for part in store.glob("cells/*/*.part.jsonl"):
            if part.read_text().count("\n") >= 2:
                return part.read_text()
        assert process.poll() is None, "the evaluation ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("no batch was kept within two minutes")
