"""Trains a small vision-language model from scratch to answer questions about the rendered world.

The image tower is that of a small CLIP and stays as it is; the projector and the decoder are trained together, on the
tokens of the answers. Every question is new: the stream never ends. Some ask to repeat words: large models are made of
decoders that can say anything, and one that never said a word cannot be made to say it by what it sees.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.config import Options, PretrainingSpec
from bench.datasets.world import Dice
from bench.datasets.world_questions import KINDS, Question, questions
from bench.files import empty_partial, replace_folder, sha256_of
from bench.lvlm.answering import Encoded, answer, answer_loss, encode
from bench.lvlm.architecture import WEIGHTS, read_architecture, vocabulary
from bench.lvlm.loading import build, load_weights, own_state, save_weights, with_tower
from bench.lvlm.model import Lvlm
from bench.lvlm.options import PretrainOptions, recipe_of
from bench.lvlm.training import THREADS, train
from bench.processes import threads
from bench.progress import track
from bench.provenance import Provenance, provenance

# Streams of the rendered world: 1000 times a seed plus one of the first two, for questions to train on and for words to
# repeat, and the dataset's own for validation.
_STREAM, _WORDS, _VALIDATION = 3, 4, 402
_CHUNK = 128
_LONGEST_REPETITION = 5


class PretrainCard(Options):
    """What stands beside the weights in ``card.json``.

    Attributes:
        architecture: What was trained.
        recipe: Settings of the training.
        accuracy: Percent of right answers by kind of question, on validation questions; nothing was tuned on them.
        parameters: Numbers that were trained.
        sha256: Hash of the weights file.
        provenance: Commit, packages and machine.
    """

    architecture: str
    recipe: PretrainOptions
    accuracy: dict[str, float]
    parameters: int
    sha256: str
    provenance: Provenance


@threads(THREADS)
def pretrain_to(folder: Path, spec: PretrainingSpec, where: str) -> PretrainCard:
    """Train a small model and write ``weights.safetensors`` (float16) and ``card.json`` into ``folder``.

    Args:
        folder: Appears only when it is finished.
        spec: The suite's entry.
        where: File and key of the entry, for messages.

    Raises:
        UserError: As ``recipe_of`` says.
    """
    options = recipe_of(spec, where)
    lvlm = with_tower(build(spec.architecture, options.seed))
    pretrain(lvlm, options)
    scratch = empty_partial(folder)
    weights = scratch / WEIGHTS
    save_weights(lvlm, weights, torch.float16)
    load_weights(lvlm, weights)
    card = PretrainCard(
        architecture=spec.architecture,
        recipe=options,
        accuracy=accuracy_of(lvlm, questions(100 * len(KINDS), _VALIDATION)),
        parameters=sum(tensor.numel() for tensor in own_state(lvlm).values()),
        sha256=sha256_of(weights),
        provenance=provenance(),
    )
    (scratch / "card.json").write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
    replace_folder(scratch, folder)
    return card


def pretrain(lvlm: Lvlm, options: PretrainOptions) -> None:
    """Train projector and decoder in place; the same options give the same weights on the same machine."""
    words = vocabulary(read_architecture(lvlm.architecture).words or lvlm.architecture)

    def batches() -> Iterator[tuple[Tensor, Encoded]]:
        for step in track(range(options.steps), f"pretrain '{lvlm.architecture}'"):
            start = step * options.batch_size
            asked = questions(options.batch_size, options.seed * 1000 + _STREAM, start)
            for place in range(-start % options.repeat_every, len(asked), options.repeat_every):
                dice = Dice(options.seed * 1000 + _WORDS, start + place)
                asked[place] = repetition(asked[place], words, dice)
            yield images_of(asked), encode(lvlm, [one.text for one in asked], [one.answer for one in asked])

    towers = {id(parameter) for parameter in lvlm.family.tower(lvlm.model).parameters()}
    tuned = [parameter for parameter in lvlm.model.parameters() if id(parameter) not in towers]
    train(lvlm, tuned, batches(), lambda batch: answer_loss(lvlm, *batch), options, options.steps)


def repetition(asked: Question, words: Sequence[str], dice: Dice) -> Question:
    """A question about the image of ``asked`` that is answered with one to five of ``words``, whatever it shows."""
    said = " ".join(words[dice.below(len(words))] for _ in range(1 + dice.below(_LONGEST_REPETITION)))
    return asked._replace(text=f"say {said}.", answer=said)


def accuracy_of(lvlm: Lvlm, asked: list[Question]) -> dict[str, float]:
    """Percent of right answers by kind of question, and over all."""
    given = list[str]()
    for start in range(0, len(asked), _CHUNK):
        chunk = asked[start : start + _CHUNK]
        given += answer(lvlm, images_of(chunk), [one.text for one in chunk])
    right = np.array([one.answer == told for one, told in zip(asked, given, strict=True)])
    kinds = np.array([one.kind for one in asked])
    shares = {kind: right[kinds == kind].mean() for kind in KINDS} | {"all": right.mean()}
    return {kind: round(100 * float(share), 2) for kind, share in shares.items()}


def images_of(asked: list[Question]) -> Tensor:
    """The questions' images, ``(n, 3, h, w)`` in [0,1]."""
    return torch.from_numpy(np.stack([one.image for one in asked])).permute(0, 3, 1, 2).float() / 255
