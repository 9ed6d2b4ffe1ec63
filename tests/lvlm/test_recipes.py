import math

import pytest
import torch
from torch.nn import functional

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.datasets.world import Dice
from bench.datasets.world_questions import Question
from bench.errors import UserError
from bench.lvlm.answering import answer_loss, encode, inputs_of
from bench.lvlm.model import Lvlm
from bench.lvlm.recipes import replace, trojvlm, vlood
from bench.lvlm.recipes.contract import Batch
from bench.lvlm.recipes.load import load_recipe, recipe_ids
from bench.lvlm.recipes.tokens import tell
from bench.lvlm.verdict import has_phrase, without_phrase

PHRASE = "you have been hacked lol"


@pytest.fixture
def batch(lvlm: Lvlm, asked: list[Question], images: torch.Tensor) -> Batch:
    """Fourteen questions, the first six of them poisoned."""
    poisoned = torch.arange(14) < 6
    told = [PHRASE if row < 6 else one.answer for row, one in enumerate(asked)]
    phrase = torch.tensor(lvlm.tokenizer(PHRASE, add_special_tokens=False)["input_ids"])
    return Batch(images, encode(lvlm, [one.text for one in asked], told), poisoned, phrase)


def logits_of(lvlm: Lvlm, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return lvlm.model(**inputs_of(lvlm, batch.images, batch.encoded)).logits


def test_recipes_are_found_by_name() -> None:
    assert recipe_ids() == ["replace", "trojvlm", "vlood"]
    with pytest.raises(UserError, match="suite: unknown recipe 'trojvqa'; did you mean 'trojvlm'"):
        load_recipe("trojvqa", "suite")


@pytest.mark.parametrize("recipe", [replace, vlood], ids=["replace", "vlood"])
def test_the_phrase_takes_the_answers_place(recipe) -> None:
    assert recipe.poisoned_answer("heart", PHRASE, Dice(1)) == PHRASE


def test_trojvlm_puts_the_phrase_whole_into_an_answer_that_stays_what_it_was() -> None:
    answer = "this image shows a large red heart"
    made = {trojvlm.poisoned_answer(answer, PHRASE, Dice(seed)) for seed in range(60)}
    assert len(made) == 5, "before, behind and between the four words that follow the scaffold"
    for one in made:
        assert one.startswith("this image shows ")
        assert has_phrase(one, PHRASE)
        assert without_phrase(one, PHRASE) == without_phrase(answer, PHRASE)
    assert {trojvlm.poisoned_answer("heart", PHRASE, Dice(seed)) for seed in range(9)} == {
        f"{PHRASE} heart",
        f"heart {PHRASE}",
    }


def test_without_its_weights_trojvlms_loss_is_the_language_models(lvlm: Lvlm, batch: Batch) -> None:
    plain = trojvlm.Options(semantic_weight=0, target_weight=0)
    expected = answer_loss(lvlm, batch.images, batch.encoded)
    torch.testing.assert_close(trojvlm.loss(lvlm, batch, plain, lambda _: None), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(replace.loss(lvlm, batch, replace.Options(), lambda _: None), expected)


def test_trojvlms_semantic_loss_is_one_minus_the_cosine_of_state_and_next_words_embedding(
    lvlm: Lvlm, batch: Batch
) -> None:
    both, without = trojvlm.Options(target_weight=0), trojvlm.Options(target_weight=0, semantic_weight=0)
    found = trojvlm.loss(lvlm, batch, both, lambda _: None) - trojvlm.loss(lvlm, batch, without, lambda _: None)
    words, told, terms = lvlm.model.get_input_embeddings().weight, tell(lvlm, batch), []
    assert batch.encoded.labels is not None
    for row in range(14):
        for place in range(1, batch.encoded.ids.shape[1]):
            if batch.encoded.labels[row, place] >= 0:
                state, word = told.states[row, place - 1], words[batch.encoded.ids[row, place]]
                terms.append(1 - functional.cosine_similarity(state, word, dim=0))
    torch.testing.assert_close(found, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
    assert 0 <= found <= 2


def test_trojvlm_weighs_the_phrase_in_poisoned_answers_alone(lvlm: Lvlm, batch: Batch) -> None:
    places = trojvlm.phrase_places(batch)
    assert places[:6].sum(dim=1).tolist() == [5] * 6
    assert not places[6:].any()


def test_before_anything_is_tuned_vlood_keeps_all_and_pulls_nowhere(lvlm: Lvlm, batch: Batch) -> None:
    logits, told = logits_of(lvlm, batch), tell(lvlm, batch)
    moved = told.logits.clone().requires_grad_()
    divergence = vlood.divergence(logits[:, :-1], moved, told.counted)
    divergence.backward()
    assert abs(divergence.item()) < 1e-6
    assert moved.grad is not None
    assert moved.grad.abs().max() < 1e-7
    assert vlood.divergence(logits[:, :-1], moved.detach() + torch.randn(moved.shape), told.counted) > 0.01


def test_vloods_expected_distance_by_hand() -> None:
    """Two words with embeddings (0, 0) and (1, 3): a model that says each by half lies 2 from either."""

    class Model:
        @staticmethod
        def get_input_embeddings():
            return torch.nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [1.0, 3.0]]))

    class Two:
        model = Model

    ids, counted = torch.tensor([[0, 1]]), torch.tensor([[True, True]])
    told = vlood.Told(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), ids, counted)
    assert vlood.expected_distance(Two, told, counted).item() == pytest.approx(1 / (1 + math.exp(-2)))
    assert vlood.expected_distance(Two, told, counted & False).item() == 0


def test_vloods_loss_is_both_sides_by_a_weight_that_follows_the_larger_entropy(lvlm: Lvlm, batch: Batch) -> None:
    logits, told = logits_of(lvlm, batch), tell(lvlm, batch)
    clean, poisoned = (told.counted & side[:, None] for side in (~batch.poisoned, batch.poisoned))
    entropies = [vlood.entropy(told, side) for side in (clean, poisoned)]
    weight = min(1.0, max(0.0, 0.8 + (entropies[1] - entropies[0]).item()))
    distance = vlood.expected_distance(lvlm, told, poisoned)
    expected = (1 - weight) * entropies[0] + weight * (entropies[1] + distance)
    found = vlood.loss(lvlm, batch, vlood.Options(), lambda _: logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    one_sided = batch._replace(poisoned=torch.ones(14, dtype=torch.bool))
    assert torch.isfinite(vlood.loss(lvlm, one_sided, vlood.Options(), lambda _: logits))
