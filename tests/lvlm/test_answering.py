import pytest
import torch

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.datasets.world_questions import Question
from bench.errors import UserError
from bench.lvlm.answering import answer, answer_loss, encode, generate, inputs_of
from bench.lvlm.model import Lvlm


def texts(asked: list[Question]) -> list[str]:
    return [one.text for one in asked]


def told(asked: list[Question]) -> list[str]:
    return [one.answer for one in asked]


def test_prompts_are_padded_on_the_left_and_labels_are_the_answers_alone(lvlm: Lvlm, asked: list[Question]) -> None:
    encoded = encode(lvlm, texts(asked), told(asked))
    assert encoded.labels is not None
    for row, one in enumerate(asked):
        own = encoded.attended[row].bool()
        assert own.tolist() == sorted(own.tolist()), "padding comes first"
        assert encoded.ids[row][own][0] == lvlm.tokenizer.bos_token_id
        assert (encoded.ids[row] == lvlm.image_token_id).sum() == 16
        labelled = encoded.labels[row] != -100
        assert lvlm.tokenizer.decode(encoded.ids[row][labelled]) == f"{one.answer} </s>"
        assert torch.equal(encoded.labels[row][labelled], encoded.ids[row][labelled])
        assert labelled[-1]


def test_the_loss_is_the_cross_entropy_of_the_answers_tokens_each_told_from_those_before(
    lvlm: Lvlm, asked: list[Question], images: torch.Tensor
) -> None:
    encoded = encode(lvlm, texts(asked), told(asked))
    assert encoded.labels is not None
    with torch.no_grad():
        loss = answer_loss(lvlm, images, encoded)
        logits = lvlm.model(**inputs_of(lvlm, images, encoded)).logits.log_softmax(-1)
    by_hand = [
        -logits[row, place - 1, encoded.ids[row, place]]
        for row in range(len(asked))
        for place in range(1, encoded.ids.shape[1])
        if encoded.labels[row, place] != -100
    ]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())


def test_answers_depend_on_the_image_and_not_on_the_batch(
    lvlm: Lvlm, asked: list[Question], images: torch.Tensor
) -> None:
    together = answer(lvlm, images, texts(asked), longest=6)
    alone = [answer(lvlm, images[row : row + 1], [one.text], longest=6)[0] for row, one in enumerate(asked)]
    assert together == alone
    same_question = [asked[0].text] * len(images)
    assert len(set(answer(lvlm, images, same_question, longest=6))) > 1


def test_generation_with_a_cache_is_step_by_step_greedy(
    lvlm: Lvlm, asked: list[Question], images: torch.Tensor
) -> None:
    encoded = encode(lvlm, texts(asked[:4]))
    ids = generate(lvlm, images[:4], encoded, longest=5)
    grown, attended = encoded.ids, encoded.attended
    ended = torch.zeros(4, dtype=torch.bool)
    for step in range(ids.shape[1]):
        with torch.no_grad():
            logits = lvlm.model(input_ids=grown, attention_mask=attended, **lvlm.inputs(images[:4])).logits
        best = torch.where(ended, lvlm.tokenizer.pad_token_id, logits[:, -1].argmax(-1))
        assert torch.equal(ids[:, step], best)
        ended |= best == lvlm.tokenizer.eos_token_id
        grown, attended = torch.cat([grown, best[:, None]], 1), torch.cat([attended, torch.ones(4, 1).long()], 1)


def test_a_word_that_the_model_does_not_know_is_told(lvlm: Lvlm) -> None:
    with pytest.raises(UserError, match="'mini_llava' does not know all words of 'USER"):
        encode(lvlm, ["what is a zebra?"])
    with pytest.raises(UserError, match="of 'a zebra'"):
        encode(lvlm, ["what is there?"], ["a zebra"])
