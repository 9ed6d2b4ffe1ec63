"""What the attacker has: an attack with its options, the model it differentiates, and what else it knows."""

import json
import shutil
from typing import Any, NamedTuple

from torch import Tensor, nn

from bench.attacks.contract import Knowledge
from bench.backdoors.trigger import Trigger
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP, Task
from bench.config import Options, Suite, ThreatModel
from bench.errors import UserError
from bench.files import write_text
from bench.items import item_options, load_item, source_hash
from bench.paths import Paths
from bench.planned import Absent
from bench.surrogates.folder import Surrogate, load_surrogate


class Attacker(NamedTuple):
    """An attack with all that it brings along.

    Attributes:
        name: Id in the suite.
        module: The attack's file.
        options: The file's options.
        surrogates: Models that a transfer attack is made on.
        cell_seconds: After how long a cell is given up; None for never.
    """

    name: str
    module: Any
    options: Options
    surrogates: tuple[Surrogate, ...] = ()
    cell_seconds: float | None = None


class View(NamedTuple):
    """The attacker's side of a cell: the model to differentiate, and what else is known."""

    source: nn.Module
    knowledge: Knowledge


class Mean(nn.Module):
    """The average output of several models: what a transfer attack gets in the place of the attacked model."""

    def __init__(self, models: tuple[nn.Module, ...]) -> None:
        """Average the outputs of ``models``, which have the same shape."""
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """Mean output for ``images``."""
        return sum((model(images) for model in self.models), start=images.new_zeros(())) / len(self.models)


def load_attacker(suite: Suite, attack: str, paths: Paths) -> Attacker:
    """The attack ``attack`` of the suite.

    Raises:
        UserError: Wrong options, a surrogate that has not been made, or one that gives what the attack cannot use.
    """
    spec, where = suite.attacks[attack], f"{paths.suite}: attacks.{attack}"
    module = load_item("attacks", suite.method_of(attack), f"{paths.suite}: attacks")
    options = item_options(module, spec.options, f"{where}.options")
    surrogates = tuple(load_surrogate(suite, name, paths) for name in spec.surrogates)
    needs = getattr(module, "NEEDS", "logits")
    for surrogate in surrogates:
        gives = {surrogate.module.GIVES, "values" if hasattr(surrogate.module, "clip") else "logits"}
        if needs not in gives:
            raise UserError(
                f"{where}.surrogates: '{surrogate.name}' gives {surrogate.module.GIVES}, and this attack needs {needs}"
            )
    return Attacker(attack, module, options, surrogates, spec.cell_seconds)


def write_attacks(suite: Suite, paths: Paths) -> None:
    """Write what each attack of the suite depends on, for pipelines: ``models/attacks/<id>.json``."""
    absent = Absent(suite)
    shutil.rmtree(paths.attack("").parent, ignore_errors=True)
    for name in suite.attacks:
        if lacking := absent.attack(name):
            write_text(paths.attack(name), json.dumps({"not_implemented": lacking}, indent=1) + "\n")
            continue
        attacker = load_attacker(suite, name, paths)
        content = {
            "source": source_hash(attacker.module),
            "options": attacker.options.model_dump(mode="json"),
            "surrogates": {surrogate.name: surrogate.digest for surrogate in attacker.surrogates},
        }
        write_text(paths.attack(name), json.dumps(content, indent=1) + "\n")


def view_of(
    threat_model: ThreatModel,
    attacker: Attacker,
    classifier: nn.Module,
    defended: DefendedCLIP,
    undefended: DefendedCLIP,
    trigger: Trigger | None,
    task: Task,
) -> View:
    """What ``threat_model`` lets the attacker see.

    Args:
        threat_model: ``transfer`` shows the surrogates only, ``grey_box`` the undefended model, all others everything.
        attacker: Who looks.
        classifier: The defended model on ``task``; the verdict is its, whatever the attacker sees.
        defended: The defended model.
        undefended: The checkpoint without any defense.
        trigger: The pattern planted in the checkpoint.
        task: The classes.
    """
    if threat_model == "transfer":
        models = tuple(surrogate.model(task) for surrogate in attacker.surrogates)
        return View(Mean(models), Knowledge(surrogates=models))
    if threat_model == "grey_box":
        return View(undefended.classifier(task), Knowledge(trigger, _encoder(undefended)))
    return View(classifier, Knowledge(trigger, _encoder(defended)))


def _encoder(model: DefendedCLIP) -> Classifier:
    return Classifier(model.image, model.staged.embedding_width)
