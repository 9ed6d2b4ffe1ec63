import pytest
import torch
from torch.nn import functional

from bench.clip.classifier import zero_shot
from bench.clip.defended import DefendedCLIP, Head, Task, placeholders
from bench.clip.staged import ImageEdits, TextEdits
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded")


def test_placeholders_stand_before_the_class_name():
    assert placeholders(3) == "X X X {}."


def test_without_edits_it_is_zero_shot_clip(mini, victim, few):
    plain = zero_shot(mini, few.task.class_names, few.task.template)(few.images)
    assert torch.equal(victim.classifier(few.task)(few.images), plain)


def test_logits_are_scale_times_cosine_of_the_edited_embeddings(mini, few):
    image_edits = ImageEdits(prompts={4: torch.randn(3, mini.image_width)})
    text_edits = TextEdits(context=torch.randn(5, mini.text_width))
    defended = DefendedCLIP(mini, image_edits, text_edits)
    images = mini.image(few.images, image_edits)
    texts = mini.text(mini.clip.tokenize([f"x x x x x {name}." for name in few.task.class_names]), text_edits)
    cosines = functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    expected = mini.clip.model.logit_scale.exp() * cosines
    torch.testing.assert_close(defended.classifier(few.task)(few.images), expected, atol=1e-4, rtol=1e-4)


def test_a_context_takes_the_place_of_the_template(mini, few):
    defended = DefendedCLIP(mini, text_edits=TextEdits(context=torch.randn(2, mini.text_width)))
    other = few.task._replace(template="a drawing of the {} in red.")
    assert torch.equal(defended.texts(few.task), defended.texts(other))
    assert not torch.equal(DefendedCLIP(mini).texts(few.task), DefendedCLIP(mini).texts(other))


def test_a_context_may_stand_in_the_first_words_of_a_sentence(mini, few):
    edits = TextEdits(context=torch.randn(2, mini.text_width), wording=lambda template: "the large " + template)
    sentences = [f"x x a photo of a {name}." for name in few.task.class_names]
    assert torch.equal(DefendedCLIP(mini, text_edits=edits).texts(few.task), mini.features_of(sentences, edits))


@pytest.mark.parametrize("names", [("circle", "square"), ("square", "circle", "star", "ring")])
def test_a_context_for_each_class_is_refused_for_another_class_list_or_order(mini, few, names):
    edits = TextEdits(context=torch.randn(4, 2, mini.text_width), class_names=few.task.class_names)
    defended = DefendedCLIP(mini, text_edits=edits)
    assert defended.texts(few.task).shape == (4, mini.embedding_width)
    with pytest.raises(UserError, match=rf"a context for each of 4 classes \(circle, .*the {len(names)} classes"):
        defended.texts(Task(names, few.task.template))


def test_text_features_are_computed_once_and_never_in_an_attack_step(mini, few):
    calls = []
    handle = mini.clip.model.ln_final.register_forward_hook(lambda *_: calls.append(1))
    try:
        classifier = DefendedCLIP(mini, text_edits=TextEdits(context=torch.randn(2, mini.text_width))).classifier(
            few.task
        )
        images = few.images.clone().requires_grad_()
        for _ in range(2):
            functional.cross_entropy(classifier(images), few.labels).backward()
    finally:
        handle.remove()
    assert len(calls) == 1
    assert images.grad.abs().sum() > 0


def test_a_head_gives_linear_logits_of_the_embeddings_and_needs_no_text(mini, few):
    head = Head(torch.randn(4, mini.embedding_width), torch.randn(4), few.task.class_names)
    calls = []
    handle = mini.clip.model.ln_final.register_forward_hook(lambda *_: calls.append(1))
    try:
        logits = DefendedCLIP(mini, head=head).classifier(few.task)(few.images)
    finally:
        handle.remove()
    torch.testing.assert_close(logits, mini.image(few.images) @ head.weight.T + head.bias, atol=1e-4, rtol=1e-4)
    assert not calls


@pytest.mark.parametrize("names", [("circle", "square"), ("square", "circle", "star", "ring")])
def test_a_head_for_another_class_list_or_order_is_refused(mini, few, names):
    head = Head(torch.randn(4, mini.embedding_width), torch.randn(4), few.task.class_names)
    with pytest.raises(UserError, match=rf"linear head for 4 classes \(circle, .*the {len(names)} classes"):
        DefendedCLIP(mini, head=head).classifier(Task(names, few.task.template))


def test_no_parameter_of_a_classifier_asks_for_a_gradient(victim, few):
    assert not any(parameter.requires_grad for parameter in victim.classifier(few.task).parameters())


@pytest.mark.parametrize(("name", "length"), [("vit_b_32", 75), ("mini", 23)])
def test_a_context_that_leaves_no_room_for_the_class_name_is_refused(name, length, request, few):
    staged = request.getfixturevalue(name)
    defended = DefendedCLIP(staged, text_edits=TextEdits(context=torch.randn(length, staged.text_width)))
    with pytest.raises(UserError):
        defended.texts(few.task)
