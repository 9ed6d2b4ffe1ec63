"""Rows from the names of folders and files, and class names as the protocols write them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import open_clip
from timm.data.imagenet_info import ImageNetInfo

from bench.datasets.archives.members import members
from bench.datasets.archives.source import Contents, Opened, Rows
from bench.datasets.store import Prompts
from bench.errors import UserError

_SUFFIXES = (".jpg", ".jpeg", ".png")


def by_folder(opened: Opened, *archives: str, below: str = "", label_of: Callable[[str], int | None]) -> Rows:
    """All images in ``archives``, sorted by name, each labelled by its path; None leaves one out."""
    names = sorted(
        member.name for member in members(opened, *archives, below=below) if member.name.lower().endswith(_SUFFIXES)
    )
    labelled = [(name, label) for name in names if (label := label_of(name)) is not None]
    return Rows([name for name, _ in labelled], [label for _, label in labelled])


def folders_of(splits: Mapping[str, Rows]) -> dict[str, int]:
    """The label of every folder that a split file names."""
    return {
        key.rpartition("/")[0]: label
        for rows in splits.values()
        for key, label in zip(rows.keys, rows.labels, strict=True)
    }


def spoken(name: str) -> str:
    """A class name as the TeCoA family writes it: lower case, and spaces for underscores, hyphens and slashes."""
    return name.lower().replace("_", " ").replace("-", " ").replace("/", " ").strip()


def prompts(names: Iterable[str], **templates: str) -> dict[str, Prompts]:
    """The same class names, with spaces for underscores, under the template of each protocol."""
    plain = tuple(name.replace("_", " ") for name in names)
    return {protocol: Prompts(class_names=plain, template=text) for protocol, text in templates.items()}


def imagenet_names() -> dict[str, str]:
    """OpenAI's class name of each of ImageNet's 1,000 synsets, in the order of the labels (CoOp's classnames.txt)."""
    synsets: Sequence[str] = ImageNetInfo("imagenet-1k").label_names()
    names: Sequence[str] = open_clip.IMAGENET_CLASSNAMES
    return dict(zip(sorted(synsets), names, strict=True))


def by_synset(opened: Opened, archive: str, below: str) -> Contents:
    """A variant of ImageNet in folders named by synset: one split ``test``, over the classes that it has."""
    names = imagenet_names()
    position = {synset: number for number, synset in enumerate(names)}
    rows = by_folder(opened, archive, below=below, label_of=lambda name: position.get(name.partition("/")[0]))
    present = sorted(set(rows.labels))
    among = {label: number for number, label in enumerate(present)}
    rows = rows._replace(labels=[among[label] for label in rows.labels])
    spoken_names = [name for synset, name in names.items() if position[synset] in among]
    texts = prompts(spoken_names, coop="a photo of a {}.", r_adapt="a photo of a {}")
    return Contents({"test": rows}, members(opened, archive, below=below), texts)


def labels_of(lines: bytes, path: str, names: Sequence[str], suffix: str = "") -> Rows:
    """Rows from a list file with an image and its class on each line.

    Raises:
        UserError: A line names an unknown class.
    """
    keys, labels = list[str](), list[int]()
    for line in lines.decode("utf-8").splitlines():
        image, _, name = line.partition(" ")
        if name not in names:
            raise UserError(f"{path}: line '{line}' names a class that is not in the list of classes")
        keys.append(f"{image}{suffix}")
        labels.append(names.index(name))
    return Rows(keys, labels)
