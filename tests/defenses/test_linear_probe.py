import pytest
import torch
from torch.nn import functional

from bench.clip.defended import Task
from bench.defenses import linear_probe
from bench.defenses.contract import Labelled
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded")


def dark_and_bright():
    """Two classes that one threshold tells apart."""
    level = torch.tensor([0.1, 0.8]).repeat(8)
    images = level.view(-1, 1, 1, 1) + 0.1 * torch.rand(16, 3, 32, 32)
    return Labelled(images, torch.arange(2).repeat(8), Task(("dark", "bright"), "a {} photo."))


def test_defaults_are_rvpts():
    options = linear_probe.Options()
    assert (options.learning_rate, options.epochs, options.batch_size) == (0.01, 40, 32)


def test_separable_classes_are_told_apart_without_fault(victim):
    data, unseen = dark_and_bright(), dark_and_bright()
    tensors = linear_probe.fit(victim, data, linear_probe.Options())
    classifier = linear_probe.load(tensors, victim, linear_probe.Options()).classifier(data.task)
    assert not torch.equal(data.images, unseen.images)
    for images, labels in (data[:2], unseen[:2]):
        assert torch.equal(classifier(images).argmax(dim=1), labels)


def test_logits_are_linear_in_the_embeddings_before_normalisation(victim, few):
    tensors = linear_probe.fit(victim, few, linear_probe.Options(epochs=2))
    classifier = linear_probe.load(tensors, victim, linear_probe.Options()).classifier(few.task)
    expected = victim.image(few.images) @ tensors["weight"].T + tensors["bias"]
    torch.testing.assert_close(classifier(few.images), expected, atol=1e-4, rtol=1e-4)


def test_training_is_sgd_with_momentum_at_a_constant_rate_and_without_decay(victim, few):
    torch.manual_seed(1)
    tensors = linear_probe.fit(victim, few, linear_probe.Options(epochs=3, batch_size=4))

    torch.manual_seed(1)
    embeddings = victim.image(few.images)
    head = torch.nn.Linear(embeddings.shape[1], len(few.task.class_names))
    velocities = [torch.zeros_like(parameter) for parameter in head.parameters()]
    for _ in range(3):
        for rows in torch.randperm(8).split(4):
            loss = functional.cross_entropy(head(embeddings[rows]), few.labels[rows])
            gradients = torch.autograd.grad(loss, list(head.parameters()))
            with torch.no_grad():
                for parameter, velocity, gradient in zip(head.parameters(), velocities, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient)
                    parameter -= 0.01 * velocity
    torch.testing.assert_close(tensors["weight"], head.weight.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tensors["bias"], head.bias.detach(), atol=1e-4, rtol=1e-4)


def test_embeddings_are_computed_once_and_the_text_tower_is_not_used(victim, few):
    image_calls, text_calls = [], []
    model = victim.staged.clip.model
    handles = [
        model.visual.conv1.register_forward_hook(lambda *_: image_calls.append(1)),
        model.ln_final.register_forward_hook(lambda *_: text_calls.append(1)),
    ]
    try:
        linear_probe.fit(victim, few, linear_probe.Options(epochs=5))
    finally:
        for handle in handles:
            handle.remove()
    assert (len(image_calls), len(text_calls)) == (1, 0)


def test_class_names_come_back_as_they_were(victim, few):
    names = ("golden retriever", "café au lait", "T-shirt/top", "x")
    data = few._replace(task=Task(names, "a photo of a {}."))
    tensors = linear_probe.fit(victim, data, linear_probe.Options(epochs=1))
    assert linear_probe.load(tensors, victim, linear_probe.Options()).head.class_names == names


def test_other_classes_are_refused(victim, few):
    tensors = linear_probe.fit(victim, few, linear_probe.Options(epochs=1))
    probed = linear_probe.load(tensors, victim, linear_probe.Options())
    with pytest.raises(UserError, match="tune it there"):
        probed.classifier(Task(("circle", "square", "star", "heart"), few.task.template))
