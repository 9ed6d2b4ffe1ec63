"""How models of this room are trained. Light: what checks a suite needs it without transformers."""

from pydantic import Field

from bench.backdoors.make import GateOptions
from bench.config import Options, PretrainingSpec, parse
from bench.errors import unknown
from bench.lvlm.architecture import Level, lvlm_architectures, read_architecture


class TrainingOptions(Options):
    """How to train on questions and answers.

    Attributes:
        learning_rate: Of AdamW; rises over ``warmup_steps`` and falls to zero along half a cosine.
        batch_size: Questions per step.
        weight_decay: Of matrices; biases and norms are not decayed.
        warmup_steps: Steps of the rise.
        largest_gradient: Bound on the gradient's norm.
    """

    learning_rate: float
    batch_size: int
    weight_decay: float = 0.01
    warmup_steps: int = 100
    largest_gradient: float = 1.0


class PretrainOptions(TrainingOptions):
    """How a small model is trained; the defaults are the recipe of mini_llava's shipped weights.

    Attributes:
        steps: Batches, of new questions each.
        repeat_every: One question of so many is replaced by words to repeat.
        seed: Of the first weights and of the questions.
    """

    learning_rate: float = 1.5e-3
    batch_size: int = 64
    steps: int = 4_000
    repeat_every: int = Field(default=8, gt=1)
    seed: int = 1


class TuneOptions(TrainingOptions):
    """How a model is fine-tuned on poisoned questions; the defaults are those of the code behind CleanSight's numbers.

    Attributes:
        recipe: Id of the recipe's file in ``bench/lvlm/recipes``: what poisoned answers are, and the loss.
        level: What is trained: the ``projector`` between image tower and decoder, ``lora`` on the decoder's queries and
            values, or the ``full`` model without its image tower.
        rank: Of LoRA's matrices.
        alpha: LoRA's scale is this over the rank.
        epochs: How often all questions are seen.
    """

    learning_rate: float = 2e-4
    batch_size: int = 8
    weight_decay: float = 0.0
    warmup_steps: int = 20
    recipe: str = "replace"
    level: Level = "projector"
    rank: int = Field(default=128, gt=0)
    alpha: int = Field(default=256, gt=0)
    epochs: int = Field(default=2, gt=0)


class StrengthOptions(GateOptions):
    """When a backdoor counts as planted.

    Attributes:
        questions: How many validation questions are asked, evenly spread and others than as many that tables ask; all
            if not given.
    """

    questions: int | None = Field(default=None, gt=0)


def recipe_of(spec: PretrainingSpec, where: str) -> PretrainOptions:
    """The options of a suite's entry for pretraining.

    Raises:
        UserError: It is no model of our own, or an option is wrong; ``where`` is the entry's file and key.
    """
    own = [name for name in lvlm_architectures() if read_architecture(name).tower]
    if spec.architecture not in own:
        raise unknown("small architecture", spec.architecture, own, f"{where}.architecture")
    return parse(PretrainOptions, spec.options, f"{where}.options")
