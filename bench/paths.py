"""Where things are kept. One object, made from the suite's file, so that no path is spelled twice."""

from pathlib import Path
from typing import NamedTuple

DEFAULT_SUITE = Path("benchmark.yaml")


class Paths(NamedTuple):
    """Folders of one suite.

    Attributes:
        suite: The suite's YAML file.
        data: Images and manifests, shared by all suites.
        models: Checkpoints and defense artefacts.
        results: Records, one JSON file per cell.
        boards: ``cells.csv`` and the tables.
        store: The cell store, shared by all suites.
    """

    suite: Path
    data: Path
    models: Path
    results: Path
    boards: Path
    store: Path

    def below(self, folder: Path) -> "Paths":
        """The same folders in another place, wherever they are now."""
        return Paths(*(folder / _from_here(path) for path in self))

    @property
    def records(self) -> Path:
        """Folder of the committed records, from which the boards can be made again."""
        return self.boards / "records"

    @property
    def submissions(self) -> Path:
        """Folder of what others have submitted, one folder each."""
        return self.boards / "submissions"

    def pretrained(self, name: str) -> Path:
        """Folder of a small CLIP that was trained from scratch."""
        return self.models / "pretrained" / name

    def checkpoint(self, name: str) -> Path:
        """Folder of a checkpoint."""
        return self.models / "base" / name

    @property
    def steganography(self) -> Path:
        """Folder of the networks behind ISSBA."""
        return self.models / "steganography"

    def attack(self, name: str) -> Path:
        """What stands for an attack in a pipeline: changes with its code, its options and its surrogates."""
        return self.models / "attacks" / f"{name}.json"

    def surrogate(self, name: str) -> Path:
        """Folder of a surrogate."""
        return self.models / "surrogates" / name

    def defended(self, track: str, defense: str, checkpoint: str) -> Path:
        """Folder of all artefacts of one defense on one checkpoint."""
        return self.models / "defended" / track / defense / checkpoint

    def evaluated(self, track: str, defense: str, attack: str) -> Path:
        """Folder of the records of one defense under one attack."""
        return self.results / track / defense / attack

    def external(self, name: str) -> Path:
        """Folder of the records of a user's own model; no table and no stage of a pipeline reads it."""
        return self.store / "external" / name


def suite_named(name: str) -> Path:
    """The file of the suite of a paper, ``leaderboards/<name>``; ``name`` itself if it is the file of one."""
    return Path(name) if name.endswith(".yaml") else Path("leaderboards") / name / "benchmark.yaml"


def paths_for(suite: Path = DEFAULT_SUITE) -> Paths:
    """The folders of ``suite``; a suite in a folder of its own keeps its models and results in folders of that name."""
    name = "" if suite.parent == Path() else suite.parent.name
    boards = suite.parent if name else Path("leaderboards")
    return Paths(suite, Path("data"), Path("models") / name, Path("results") / name, boards, Path(".bench"))


def _from_here(path: Path) -> Path:
    """``path`` as one that leads nowhere else when it is put below a folder."""
    if not path.is_absolute() and ".." not in path.parts:
        return path
    whole = path.resolve()
    return whole.relative_to(whole.anchor)
