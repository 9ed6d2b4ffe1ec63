import pytest
import torch

from bench.clip.defended import Task
from bench.clip.staged import TextEdits
from bench.defenses import apt
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")
STRATEGIES = ("onfly", "constant", "perturbed")


def settings(**changes):
    return apt.Options(**{"epochs": 1, "context": 3, "batch_size": 8, "augment": False, **changes})


def fit(victim, few, **changes):
    torch.manual_seed(1)
    return apt.fit(victim, few, settings(**changes))


def test_defaults_are_the_papers():
    options = apt.Options()
    assert (options.context, options.eps, options.attack_steps, options.strategy) == (16, 4.0, 3, "onfly")
    assert options.step_size == pytest.approx(2.67, abs=0.01)
    assert (options.learning_rate, options.epochs, options.batch_size, options.augment) == (0.002, 50, 32, True)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_context_is_what_it_was_after_the_attack(victim, few, strategy):
    """Without a learning rate to speak of, one step leaves the context where it was drawn."""
    tuned = fit(victim, few, strategy=strategy, warmup_rate=0.0, prompt_rate=10.0)["context"]
    torch.manual_seed(1)
    assert torch.equal(tuned, 0.02 * torch.randn(3, victim.staged.text_width))


def test_the_attack_moves_a_copy_of_the_context_uphill(victim, few):
    context = torch.randn(3, victim.staged.text_width)
    kept = context.clone()
    loss = apt.moving_context_loss(victim, few, context, few.labels, rate=0.5)
    values = [loss(few.images).item() for _ in range(10)]
    assert values[-1] > values[0] + 0.01
    assert torch.equal(context, kept)
    assert context.grad is None


def test_without_a_rate_the_perturbed_strategy_is_onfly(victim, few):
    moved = fit(victim, few, strategy="perturbed", prompt_rate=0.0, warmup_rate=1.0)["context"]
    torch.testing.assert_close(moved, fit(victim, few, strategy="onfly", warmup_rate=1.0)["context"])


def test_strategies_differ(victim, few):
    tuned = [
        fit(victim, few, strategy=strategy, warmup_rate=1.0, prompt_rate=5.0)["context"] for strategy in STRATEGIES
    ]
    assert not any(torch.equal(tuned[a], tuned[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_the_constant_strategy_attacks_with_the_fixed_template(recording, few):
    torch.manual_seed(1)
    apt.fit(recording, few, settings(strategy="constant", attack_steps=1))
    start, attacked = (images for _, images in recording.log)
    start = start.requires_grad_()
    texts = recording.staged.features_of([f"a photo of a {name}" for name in few.task.class_names])
    torch.manual_seed(1)
    torch.randn(3, recording.staged.text_width)
    labels = few.labels[torch.randperm(8)]
    loss = torch.nn.functional.cross_entropy(recording.logits(start, texts), labels)
    (gradient,) = torch.autograd.grad(loss, start)
    sure = gradient.abs() > 1e-4
    assert sure.float().mean() > 0.1
    assert ((attacked - start)[sure] * gradient[sure].sign() >= 0).all()


def test_at_eps_0_it_is_coop_on_clean_images(recording, few):
    fit(recording, few, eps=0.0)
    assert all(images.shape == few.images.shape for _, images in recording.log)
    torch.manual_seed(1)
    torch.randn(3, recording.staged.text_width)
    order = torch.randperm(8)
    assert all(torch.equal(images, few.images[order]) for _, images in recording.log)


def test_only_texts_are_edited(victim, few):
    defended = apt.load(fit(victim, few), victim, settings())
    assert torch.equal(defended.image(few.images), victim.image(few.images))
    sentences = [f"x x x {name}." for name in few.task.class_names]
    expected = victim.staged.features_of(sentences, TextEdits(context=defended.text_edits.context))
    assert torch.equal(defended.texts(few.task), expected)


def test_each_class_may_have_its_own_context(victim, few):
    tensors = fit(victim, few, class_specific=True, warmup_rate=1.0)
    defended = apt.load(tensors, victim, settings(class_specific=True))
    assert tensors["context"].shape == (4, 3, victim.staged.text_width)
    assert apt.tuned_parameters(tensors) == 4 * 3 * victim.staged.text_width
    alone = victim.staged.features_of(["x x x star."], TextEdits(context=tensors["context"][2]))
    torch.testing.assert_close(defended.texts(few.task)[2:3], alone)


@pytest.mark.parametrize("names", [("circle", "square"), ("square", "circle", "star", "ring")])
def test_contexts_of_other_classes_are_refused(victim, few, names):
    options = settings(class_specific=True)
    defended = apt.load(fit(victim, few, class_specific=True), victim, options)
    with pytest.raises(UserError, match=r"a context for each of 4 classes \(circle, .*tune it there"):
        defended.classifier(Task(names, few.task.template))
