import pytest
import torch
from torch.nn import functional

from bench.clip.classifier import Classifier, predict, scaled_cosine, sentences, zero_shot
from bench.clip.model import build, normalise
from bench.clip.staged import StagedCLIP

pytestmark = pytest.mark.usefixtures("seeded")


def test_class_names_take_the_place_in_the_template_with_spaces_for_underscores():
    assert sentences(["hot_dog", "cat"], "a photo of a {}.") == ["a photo of a hot dog.", "a photo of a cat."]


def test_logits_are_scale_times_cosine(mini):
    images, texts = torch.randn(3, 4), functional.normalize(torch.randn(2, 4), dim=-1)
    logits = scaled_cosine(mini, images, texts)
    scale = mini.clip.model.logit_scale.exp().item()
    for i in range(3):
        for j in range(2):
            cosine = (images[i] * texts[j]).sum() / images[i].norm() / texts[j].norm()
            assert logits[i, j].item() == pytest.approx(scale * cosine.item(), abs=1e-4)


def test_zero_shot_logits_are_open_clips_own(mini, few):
    logits = zero_shot(mini, few.task.class_names, few.task.template)(few.images)
    model = mini.clip.model
    ids = mini.clip.tokenize([few.task.template.format(name) for name in few.task.class_names])
    image, text, scale = model(normalise(mini.clip, few.images), ids)
    torch.testing.assert_close(logits, scale * image @ text.T, atol=1e-4, rtol=1e-4)


def test_text_features_are_computed_once_and_never_in_an_attack_step(mini, few):
    calls = []
    handle = mini.clip.model.ln_final.register_forward_hook(lambda *_: calls.append(1))
    try:
        classifier = zero_shot(mini, few.task.class_names, few.task.template)
        assert len(calls) == 1
        images = few.images.clone().requires_grad_()
        for _ in range(2):
            functional.cross_entropy(classifier(images), few.labels).backward()
        assert len(calls) == 1
    finally:
        handle.remove()
    assert images.grad.abs().sum() > 0


def test_no_parameter_of_a_classifier_asks_for_a_gradient(few):
    staged = StagedCLIP(build("mini"))
    assert all(parameter.requires_grad for parameter in staged.clip.model.parameters())
    classifier = zero_shot(staged, few.task.class_names, few.task.template)
    parameters = list(classifier.parameters())
    assert len(parameters) == len(list(staged.clip.model.parameters()))
    assert not any(parameter.requires_grad for parameter in parameters)
    classifier(few.images.clone().requires_grad_()).sum().backward()
    assert all(parameter.grad is None for parameter in parameters)


def test_a_classifier_is_in_evaluation_mode(few):
    model = build("mini").model.train()
    assert not Classifier(lambda images: images, 2, [model]).training
    assert not model.training


def test_predictions_do_not_depend_on_the_batch_size(mini, few):
    classifier = zero_shot(mini, few.task.class_names, few.task.template)
    assert torch.equal(predict(classifier, few.images, 3), classifier(few.images).argmax(dim=1))
