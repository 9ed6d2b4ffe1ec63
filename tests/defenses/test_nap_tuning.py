import pytest
import torch
from pydantic import ValidationError

from bench.clip.staged import ImageEdits, TextEdits, Trace
from bench.defenses import nap_tuning, rvpt
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def settings(**changes):
    return nap_tuning.Options(**{"epochs": 2, "length": 3, "attack_steps": 2, **changes})


def test_defaults_are_the_papers():
    options = nap_tuning.Options()
    assert (options.epochs, options.batch_size, options.learning_rate) == (90, 512, 1e-4)
    assert (options.length, options.depth, options.refiner_layers, options.alpha) == (16, 12, 2, 5.0)
    assert (options.eps, options.attack_steps, options.optimizer, options.refine_text) == (1.0, 5, "adamw", True)


def test_an_optimizer_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="optimizer"):
        nap_tuning.Options(optimizer="adam")


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.033), (0.25, 0.379), (0.5, 2.5), (0.75, 4.621), (1.0, 4.967)])
def test_weight_of_the_adversarial_loss_over_training(progress, weight):
    assert nap_tuning.loss_weights(progress, nap_tuning.Options()) == (1, pytest.approx(weight, abs=1e-3))


@pytest.mark.parametrize(("progress", "linear"), [(0.0, (1, 0)), (0.5, (0.5, 0.5)), (1.0, (0, 1))])
def test_weights_of_the_development_code(progress, linear):
    assert nap_tuning.loss_weights(progress, settings(weighting="linear")) == linear
    assert nap_tuning.loss_weights(progress, settings(weighting="equal")) == (0.5, 0.5)


@pytest.mark.parametrize(("weighted_by", "expected"), [("epoch", [0, 0, 0.5, 0.5]), ("step", [0, 0.25, 0.5, 0.75])])
def test_the_schedule_counts_epochs_from_0_or_steps(victim, few, monkeypatch, weighted_by, expected):
    seen, true_weights = [], nap_tuning.loss_weights
    monkeypatch.setattr(nap_tuning, "loss_weights", lambda t, options: seen.append(t) or true_weights(t, options))
    nap_tuning.fit(victim, few, settings(batch_size=4, attack_steps=0, weighted_by=weighted_by))
    assert seen == expected


def test_refiners_at_zero_without_prompts_are_clip(mini, victim, few):
    model = nap_tuning.Augmentor(mini, settings(zero_init=True)).apply_to(victim)
    image_edits, text_edits = ImageEdits(refine=model.image_edits.refine), TextEdits(refine=model.text_edits.refine)
    assert sorted(image_edits.refine) == [2, 3, 4, 5, 6]
    assert sorted(text_edits.refine) == [2]
    sentences = [few.task.template.format(name) for name in few.task.class_names]
    assert torch.equal(mini.image(few.images, image_edits), mini.image(few.images))
    assert torch.equal(mini.features_of(sentences, text_edits), mini.features_of(sentences))


def test_refiners_of_the_papers_code_do_not_start_at_clip(mini, victim, few):
    model = nap_tuning.Augmentor(mini, settings()).apply_to(victim)
    edits = ImageEdits(refine=model.image_edits.refine)
    assert (mini.image(few.images, edits) - mini.image(few.images)).abs().max() > 1e-2


def test_tokens_are_refined_before_prompts_are_put_beside_them(mini, victim, few):
    model, trace = nap_tuning.Augmentor(mini, settings()).apply_to(victim), Trace(every_token=True)
    model.image(few.images, trace)
    own, last = 1 + mini.patches, len(mini.image_blocks)
    refined = model.image_edits.refine[last](trace.tokens[-2][:, :own])
    assert torch.equal(trace.last_input[:, :own], refined)
    assert torch.equal(trace.last_input[:, own:], model.image_edits.prompts[last].expand(len(few.images), -1, -1))


def test_each_layer_of_each_tower_has_prompts(mini, victim):
    model = nap_tuning.Augmentor(mini, settings()).apply_to(victim)
    image, text = model.image_edits, model.text_edits
    assert image.shallow.shape == (3, mini.image_width)
    assert text.context.shape == (3, mini.text_width)
    assert sorted(image.prompts) == [2, 3, 4, 5, 6]
    assert sorted(text.prompts) == [2]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_refiner_is_residual_and_works_token_by_token(layers):
    refiner, tokens = nap_tuning.Refiner(8, settings(refiner_layers=layers)), torch.randn(2, 5, 8)
    refined = refiner(tokens)
    torch.testing.assert_close(refined - tokens, refiner.layers(tokens))
    torch.testing.assert_close(refined[:, 2:3], refiner(tokens[:, 2:3]))
    assert sum(isinstance(part, torch.nn.Linear) for part in refiner.layers) == layers


def test_without_text_refiners_only_the_text_refiners_are_missing(mini):
    both, image_only = (
        dict(nap_tuning.Augmentor(mini, settings(refine_text=refine)).named_parameters()) for refine in (True, False)
    )
    missing = both.keys() - image_only.keys()
    assert image_only.keys() < both.keys()
    assert missing == {name for name in both if name.startswith("text.")}
    assert len(missing) == 4


def test_width_and_activation_of_refiners_are_options():
    refiner = nap_tuning.Refiner(8, settings(refiner_width=0.25, refiner_activation="gelu"))
    assert [type(part).__name__ for part in refiner.layers] == ["Linear", "GELU", "Linear"]
    assert refiner.layers[0].weight.shape == (2, 8)


def test_layer_1_is_refined_on_request_only(mini, victim):
    model = nap_tuning.Augmentor(mini, settings(refine_first=True)).apply_to(victim)
    assert sorted(model.image_edits.refine) == [1, 2, 3, 4, 5, 6]
    assert sorted(model.text_edits.refine) == [1, 2]


def test_joint_prompts_of_the_image_tower_follow_the_text_towers(mini, victim):
    augmentor = nap_tuning.Augmentor(mini, settings(coupling="text_to_image"))
    before = augmentor.apply_to(victim).image_edits
    with torch.no_grad():
        augmentor.prompts.vectors["text_1"] += 1
    after = augmentor.apply_to(victim).image_edits
    assert not torch.equal(before.shallow, after.shallow)
    assert torch.equal(before.prompts[2], after.prompts[2])


def test_towers_may_have_prompts_of_different_lengths(mini, victim):
    model = nap_tuning.Augmentor(mini, settings(image_length=2)).apply_to(victim)
    assert (len(model.image_edits.shallow), len(model.image_edits.prompts[3])) == (2, 2)
    assert (len(model.text_edits.context), len(model.text_edits.prompts[2])) == (3, 3)
    with pytest.raises(ValidationError, match="image_length must be length"):
        settings(image_length=2, coupling="text_to_image")


def test_drift_is_one_minus_the_cosine_of_whole_layers():
    clean, moved = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    trace = Trace(tokens=[torch.cat([clean, moved]), torch.cat([clean, clean])])
    cosines = [(a.flatten() @ b.flatten() / a.norm() / b.norm()).item() for a, b in zip(clean, moved, strict=True)]
    assert nap_tuning.drift(trace).item() == pytest.approx((1 - sum(cosines) / 2) / 2, abs=1e-6)


def test_the_consistency_loss_changes_what_is_learned(victim, few):
    def tuned(**changes):
        torch.manual_seed(1)
        return nap_tuning.fit(victim, few, settings(**changes))["prompts.vectors.image_2"]

    assert torch.equal(tuned(), tuned(consistency=0.0))
    assert not torch.equal(tuned(), tuned(consistency=1.0))


@pytest.mark.parametrize(
    "changes", [{}, {"refine_text": False}, {"refiner_layers": 0}, {"depth": 3}, {"refine_first": True}]
)
def test_what_is_loaded_equals_what_was_trained(recording, victim, few, changes):
    tensors = nap_tuning.fit(recording, few, settings(**changes))
    trained = recording.log[-1][0]
    expected = trained.classifier(few.task)(few.images)
    assert trained.image_edits != victim.image_edits
    loaded = nap_tuning.load(tensors, victim, settings(**changes)).classifier(few.task)
    assert torch.equal(loaded(few.images), expected)


def test_every_tuned_tensor_is_trained(victim, few):
    torch.manual_seed(1)
    start = {
        name: tensor.clone() for name, tensor in nap_tuning.Augmentor(victim.staged, settings()).state_dict().items()
    }
    torch.manual_seed(1)
    # Without decay only a gradient moves a parameter.
    tensors = nap_tuning.fit(victim, few, settings(weight_decay=0.0, augment=False))
    assert tensors.keys() == start.keys()
    assert [name for name, tensor in tensors.items() if torch.equal(tensor, start[name])] == []


def test_the_training_attack_starts_at_the_clean_images_and_stays_in_its_ball(recording, few):
    options = settings(epochs=1, augment=False, eps=2.0, attack_steps=3, batch_size=len(few.labels))
    torch.manual_seed(1)
    nap_tuning.fit(recording, few, options)
    *attack, (_, trained_on) = recording.log
    clean, attacked = trained_on.chunk(2)
    assert len(attack) == 3
    assert torch.equal(attack[0][1], clean)
    step = (attack[1][1] - clean).abs()
    assert step.max().item() == pytest.approx(1.5 * 2 / 255 / 3, abs=1e-6)
    assert 0 < (attacked - clean).abs().max() <= 2 / 255 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_towers_that_are_edited_already_are_refused(victim, few):
    prompts = rvpt.fit(victim, few, rvpt.Options(epochs=1, length=2))
    edited = rvpt.load(prompts, victim, rvpt.Options(length=2))
    tensors = nap_tuning.Augmentor(victim.staged, settings()).state_dict()
    with pytest.raises(UserError, match="no other defense has edited"):
        nap_tuning.load(tensors, edited, settings())
