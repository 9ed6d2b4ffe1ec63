"""The suite's attacks on the models of an analysis, as its tracks run them: through the one checked call."""

import torch
from torch import Tensor

from bench.analyses.contract import Source
from bench.analyses.subjects.models import Opened, Sample
from bench.analyses.subjects.references import AttackReference
from bench.attacks.checked import attack_in_parts
from bench.attacks.contract import Knowledge
from bench.clip.classifier import Classifier, predict
from bench.config import ThreatModel
from bench.errors import UserError
from bench.evaluation.adversary import Attacker, load_attacker
from bench.evaluation.metrics import Count
from bench.randomness import sample_seeds


def open_attack(source: Source, reference: AttackReference, key: str) -> Attacker:
    """The attack that an analysis names.

    Args:
        source: Has the suite.
        reference: Which attack.
        key: Where it stands among the options, for messages.

    Raises:
        UserError: It is a transfer attack, or one that counts a backdoor's success.
    """
    attacker = load_attacker(source.suite, reference.attack, source.paths)
    where = f"{source.where}.{key}: '{attacker.name}'"
    if attacker.surrogates:
        raise UserError(f"{where} is made on surrogates; name a white-box or grey-box attack")
    if attacker.module.METRIC == "ASR":
        raise UserError(f"{where} counts a backdoor's success; name an attack that counts correct answers")
    return attacker


def threat_model(source: Source, attacker: Attacker) -> ThreatModel:
    """What the attacker may use, as the suite says."""
    return source.suite.attacks[attacker.name].threat_model


def attack_images(source: Source, attacker: Attacker, model: Opened, undefended: Opened, sample: Sample) -> Tensor:
    """Adversarial versions of the images of ``sample``, ``(n, 3, h, w)``.

    Args:
        source: Has the size of the batches.
        attacker: Who attacks.
        model: What is attacked; under ``grey_box`` the attacker sees ``undefended`` instead.
        undefended: The same backbone without a defense.
        sample: Images and their labels.
    """
    seen = undefended if threat_model(source, attacker) == "grey_box" else model
    knowledge = Knowledge(encoder=Classifier(seen.defended.image, seen.defended.staged.embedding_width))
    size, found = source.suite.protocol.batch_size, [sample.split.batch(sample.rows[:0])]
    for start in range(0, len(sample.rows), size):
        rows = sample.rows[start : start + size]
        attacked = attack_in_parts(
            attacker.module, seen.classifier, sample.split.batch(rows), sample.labels[start : start + size],
            options=attacker.options, seeds=sample_seeds(sample.seed, rows), knowledge=knowledge,
        )  # fmt: skip
        found.append(attacked.images)
    return torch.cat(found)


def robust_count(source: Source, attacker: Attacker, model: Opened, undefended: Opened, sample: Sample) -> Count:
    """How many images of ``sample`` are right after the attack; what is wrong already is not attacked."""
    clean = torch.cat([predict(model.classifier, images) for images in sample.batches()])
    places = torch.nonzero(clean == sample.labels).flatten()
    right = sample._replace(rows=[sample.rows[place] for place in places.tolist()], labels=sample.labels[places])
    predictions = predict(model.classifier, attack_images(source, attacker, model, undefended, right))
    return Count(int((predictions == right.labels).sum()), len(sample.rows))
