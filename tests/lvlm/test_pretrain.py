from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.clip.model import Base
from bench.config import PretrainingSpec
from bench.datasets.world_questions import KINDS, questions
from bench.errors import UserError
from bench.files import sha256_of
from bench.lvlm import pretrain as module
from bench.lvlm.answering import Encoded, answer_loss, encode
from bench.lvlm.loading import build, load, own_state, with_tower
from bench.lvlm.model import Lvlm
from bench.lvlm.options import PretrainOptions, recipe_of
from bench.lvlm.pretrain import accuracy_of, images_of, pretrain, pretrain_to
from bench.lvlm.training import train

QUICK = {"steps": 3, "batch_size": 7, "warmup_steps": 1}
SPEC = PretrainingSpec(architecture="mini_llava", options=QUICK)


def test_projector_and_decoder_learn_and_the_image_tower_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions(14, 8)
    lvlm = with_tower(build("mini_llava"))
    before = {name: tensor.clone() for name, tensor in lvlm.model.state_dict().items()}
    encoded = encode(lvlm, [one.text for one in asked], [one.answer for one in asked])
    first = answer_loss(lvlm, images_of(asked), encoded).item()
    monkeypatch.setattr(module, "questions", lambda count, stream, start: asked)
    pretrain(lvlm, PretrainOptions(steps=25, batch_size=14, warmup_steps=5))
    assert answer_loss(lvlm, images_of(asked), encoded).item() < 0.6 * first
    assert not lvlm.model.training
    assert not any(parameter.requires_grad for parameter in lvlm.model.parameters())
    changed = {name for name, tensor in lvlm.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == own_state(lvlm).keys()


def test_every_so_many_questions_are_words_to_repeat_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = list[tuple[str, str]](), module.encode

    def noted(lvlm: Lvlm, texts: list[str], answers: list[str]) -> Encoded:
        asked.extend(zip(texts, answers, strict=True))
        return real(lvlm, texts, answers)

    monkeypatch.setattr(module, "encode", noted)
    monkeypatch.setattr(module, "train", lambda lvlm, tuned, batches, loss, options, total: list(batches))
    lvlm, found = build("mini_llava"), list[list[tuple[str, str]]]()
    for size, steps in ((12, 20), (30, 8)):
        asked.clear()
        pretrain(lvlm, PretrainOptions(steps=steps, batch_size=size, repeat_every=8))
        found.append(list(asked))
    assert found[0] == found[1]
    repeated = [row for row, (text, answer) in enumerate(found[0]) if text == f"say {answer}."]
    assert repeated == list(range(0, 240, 8))
    assert {len(found[0][row][1].split()) for row in repeated} == {1, 2, 3, 4, 5}
    others = [one for row, one in enumerate(found[0]) if row % 8]
    assert others == [(one.text, one.answer) for row, one in enumerate(questions(240, 1003)) if row % 8]


def test_the_command_writes_weights_of_half_precision_with_their_card_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = questions(7, 402)
    real = module.questions
    monkeypatch.setattr(
        module, "questions", lambda count, stream, start=0: few if stream == 402 else real(count, stream, start)
    )
    cards = [pretrain_to(tmp_path / name, SPEC, "suite: pretraining.x") for name in ("one", "two")]
    assert cards[0].sha256 == cards[1].sha256 == sha256_of(tmp_path / "one" / "weights.safetensors")
    assert cards[0].accuracy.keys() == {*KINDS, "all"}
    again = load(Base(architecture="mini_llava", weights=str(tmp_path / "one" / "weights.safetensors")))
    assert cards[0].parameters == sum(tensor.numel() for tensor in own_state(again).values())
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in own_state(again).values())


def test_right_answers_are_counted_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions(14, 9)
    given = [one.answer if one.kind != "size" else "huge" for one in asked[:7]] + ["no idea"] * 7
    monkeypatch.setattr(module, "answer", lambda lvlm, images, texts: given)
    shares = accuracy_of(build("mini_llava"), asked)
    assert shares == {kind: 0.0 if kind == "size" else 50.0 for kind in KINDS} | {"all": round(100 * 6 / 14, 2)}


def test_a_loss_that_is_not_finite_is_told() -> None:
    lvlm = build("mini_llava")
    options = PretrainOptions(learning_rate=0.5)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1 of 1; lower learning_rate \(now 0.5\)"):
        train(lvlm, [next(lvlm.model.parameters())], [0], lambda _: torch.tensor(float("nan")), options, 1)


def test_what_cannot_be_trained_is_told() -> None:
    with pytest.raises(UserError, match=r"here.architecture: unknown small architecture 'mini'"):
        recipe_of(PretrainingSpec(architecture="mini"), "here")
    with pytest.raises(UserError, match=r"here.options: step: unknown key 'step'; did you mean 'steps'"):
        recipe_of(PretrainingSpec(architecture="mini_llava", options={"step": 3}), "here")
