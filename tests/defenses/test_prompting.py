import pytest
import torch

from bench.clip.staged import ImageEdits, TextEdits
from bench.defenses.fap import literal
from bench.defenses.prompting import Layout, Prompts

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def keys(parameters):
    return sorted(parameters.keys())


def moved(prompts, victim, key):
    """Which prompts change when the vectors ``key`` do."""
    before = {tower: prompts.of(tower) for tower in ("image", "text")}
    with torch.no_grad():
        prompts.vectors[key] = prompts.vectors[key] + 1
    return {
        f"{tower}_{layer}"
        for tower, old in before.items()
        for layer, prompt in prompts.of(tower).items()
        if not torch.equal(prompt, old[layer])
    }


def test_the_image_layout_leaves_the_text_tower_alone(mini, victim):
    prompts = Prompts(mini, Layout("image", 3, 9))
    model = prompts.apply_to(victim)
    assert keys(prompts.vectors) == [f"image_{layer}" for layer in range(1, 7)]
    assert model.text_edits == TextEdits()
    assert model.image_edits.shallow.shape == (3, mini.image_width)
    assert sorted(model.image_edits.prompts) == [2, 3, 4, 5, 6]


def test_independent_prompts_do_not_move_each_other(mini, victim):
    prompts = Prompts(mini, Layout("independent", 2, 4))
    assert keys(prompts.vectors) == ["image_1", "image_2", "image_3", "image_4", "text_1", "text_2"]
    assert len(prompts.projections) == 0
    for key in keys(prompts.vectors):
        assert moved(prompts, victim, key) == {key}


@pytest.mark.parametrize(
    ("coupling", "leaders"),
    [
        ("text_to_image", {"text_1": {"text_1", "image_1"}, "text_2": {"text_2", "image_2"}}),
        ("image_to_text", {"image_1": {"text_1", "image_1"}, "image_2": {"text_2", "image_2"}}),
        ("fap", {"text_1": {"text_1", "image_1"}, "image_2": {"text_2", "image_2"}}),
    ],
)
def test_coupled_prompts_follow_their_leader_and_layers_of_one_tower_stand_alone(mini, victim, coupling, leaders):
    prompts = Prompts(mini, Layout(coupling, 2, 3))
    assert set(keys(prompts.vectors)) == {*leaders, "image_3"}
    for key, followers in {**leaders, "image_3": {"image_3"}}.items():
        assert moved(prompts, victim, key) == followers


@pytest.mark.parametrize("length", [2, 4])
def test_a_short_context_starts_as_the_words_it_replaces(mini, victim, few, length):
    model = Prompts(mini, Layout("independent", length, 1)).apply_to(victim)
    other = few.task._replace(template="a drawing of the {}.")
    assert torch.equal(model.texts(few.task), victim.texts(few.task))
    assert torch.equal(model.texts(other), victim.texts(few.task))


def test_a_long_context_starts_at_random_and_takes_the_place_of_all_words(mini, victim, few):
    prompts = Prompts(mini, Layout("independent", 5, 2))
    model = prompts.apply_to(victim)
    assert prompts.vectors["text_1"].std().item() == pytest.approx(0.02, rel=0.1)
    sentences = [f"x x x x x {name}." for name in few.task.class_names]
    assert torch.equal(model.texts(few.task), mini.features_of(sentences, model.text_edits))


def test_projected_contexts_keep_their_words_too(mini, victim, few):
    model = Prompts(mini, Layout("image_to_text", 2, 1)).apply_to(victim)
    sentences = [f"x x of a {name}." for name in few.task.class_names]
    assert torch.equal(model.texts(few.task), mini.features_of(sentences, model.text_edits))


def test_faps_literal_template_stands_before_the_class_and_starts_the_context(vit_b_32, mini, few):
    assert literal("a photo of a {}, a type of pet.").format("cat") == "a photo of a {}, a type of pet. cat."
    prompts = Prompts(mini, Layout("fap", 2, 2, literal), "a good drawing of the {}.")
    assert torch.equal(prompts.vectors["text_1"], mini.word_vectors("a good"))


def test_other_vectors_start_near_zero(mini):
    prompts = Prompts(mini, Layout("fap", 4, 6))
    drawn = torch.cat([vectors for key, vectors in prompts.vectors.items() if key != "text_1"])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.1)


def test_prompts_replace_edits_and_nothing_else(mini, victim):
    model = Prompts(mini, Layout("fap", 2, 2)).apply_to(victim)
    assert (model.staged, model.head) == (victim.staged, None)
    assert model.image_edits != ImageEdits()
    assert (model.image_edits.refine, model.image_edits.attention, model.image_edits.pixels) == ({}, {}, None)
