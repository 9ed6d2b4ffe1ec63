from collections import Counter

import pytest
import torch
from torch.nn import functional
from torchvision.transforms import v2

from bench.clip.contrastive import contrastive_loss
from bench.clip.defended import DefendedCLIP
from bench.clip.model import build, normalise, weights_hash
from bench.clip.staged import StagedCLIP
from bench.defenses import cleanclip

pytestmark = pytest.mark.usefixtures("seeded", "exact")

CAPTION = "a photo of a large red circle on a plain background."


def settings(**changes):
    return cleanclip.Options(**{"epochs": 2, "batch_size": 4, "learning_rate": 1e-4, "warmup_steps": 0, **changes})


def embeddings():
    return functional.normalize(torch.randn(6, 8), dim=-1)


def test_the_loss_inside_a_modality_is_not_symmetric_but_clips_is():
    originals, copies, scale = embeddings(), embeddings(), torch.tensor(10.0)
    there, back = (cleanclip.one_way_loss(scale, *pair) for pair in ((originals, copies), (copies, originals)))
    assert abs(there - back) > 0.01
    assert torch.isclose(contrastive_loss(scale, originals, copies), (there + back) / 2)
    assert torch.isclose(contrastive_loss(scale, originals, copies), contrastive_loss(scale, copies, originals))


def test_the_loss_inside_a_modality_looks_for_each_originals_copy_among_all_copies():
    originals, copies, scale = embeddings(), embeddings(), torch.tensor(10.0)
    shares = (scale * originals @ copies.T).softmax(dim=1).diag()
    assert torch.isclose(cleanclip.one_way_loss(scale, originals, copies), -shares.log().mean())


def test_equal_views_cost_what_a_perfect_match_costs():
    views, scale = embeddings(), torch.tensor(10.0)
    assert torch.isclose(cleanclip.one_way_loss(scale, views, views), contrastive_loss(scale, views, views))


def test_changed_captions_hold_words_of_the_caption_only():
    words = Counter(CAPTION.split())
    changed = [cleanclip.change_words(CAPTION).split() for _ in range(200)]
    assert all(sentence and Counter(sentence) <= words for sentence in changed)


def test_captions_are_changed_by_swapping_two_words_or_leaving_words_out():
    words = CAPTION.split()
    changed = [cleanclip.change_words(CAPTION).split() for _ in range(400)]
    swapped = [sentence for sentence in changed if Counter(sentence) == Counter(words) and sentence != words]
    shorter = [sentence for sentence in changed if len(sentence) < len(words)]
    for sentence in swapped:
        assert sum(new != old for new, old in zip(sentence, words, strict=True)) == 2
    for sentence in shorter:
        left = iter(words)
        assert all(word in left for word in sentence)  # in the caption's order
    # Half are swaps (3 in 55 of them of equal words); of the others 1 - 0.9^11 = 69 % lose a word.
    assert len(swapped) / 400 == pytest.approx(0.47, abs=0.1)
    assert len(shorter) / 400 == pytest.approx(0.34, abs=0.1)


def test_a_caption_never_becomes_empty():
    assert all(cleanclip.change_words("red circle") for _ in range(3000))
    assert cleanclip.change_words("circle") == "circle"
    assert cleanclip.change_words("") == ""


def test_fit_leaves_the_victim_alone_and_returns_other_weights(victim, pairs):
    model = victim.staged.clip.model
    before = weights_hash(model)
    tensors = cleanclip.fit(victim, pairs, settings())
    assert weights_hash(model) == before
    state = model.state_dict()
    assert [name for name, tensor in tensors.items() if torch.equal(tensor, state[name])] == []


def test_load_puts_the_weights_into_a_plain_clip(victim, pairs, few):
    tensors = cleanclip.fit(victim, pairs, settings())
    expected = build("mini", seed=9)
    expected.model.load_state_dict(tensors)
    # Kernels may differ where weights ask for gradients.
    expected.model.requires_grad_(False)
    logits = DefendedCLIP(StagedCLIP(expected)).classifier(few.task)(few.images)
    loaded = cleanclip.load(tensors, victim, settings())
    assert torch.equal(loaded.classifier(few.task)(few.images), logits)
    assert weights_hash(loaded.staged.clip.model) != weights_hash(victim.staged.clip.model)


def test_load_of_the_victims_own_weights_gives_the_victims_logits(victim, few):
    loaded = cleanclip.load(victim.staged.clip.model.state_dict(), victim, settings())
    assert torch.equal(loaded.classifier(few.task)(few.images), victim.classifier(few.task)(few.images))


def test_one_step_lowers_clips_loss_plus_half_of_each_loss_inside_a_modality(mini, victim, pairs):
    options = settings(epochs=1, batch_size=8, self_supervision=0.7)
    torch.manual_seed(1)
    tuned = cleanclip.fit(victim, pairs, options)

    torch.manual_seed(1)
    changed = [cleanclip.change_words(caption) for caption in pairs.captions]
    rows = torch.randperm(8)
    augment = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    copies = torch.stack([augment(image) for image in pairs.images[rows]])
    clip = build("mini")
    clip.model.load_state_dict(mini.clip.model.state_dict())

    def embed_images(images):
        return functional.normalize(clip.model.encode_image(normalise(clip, images.float() / 255)), dim=-1)

    def embed_texts(captions):
        return functional.normalize(clip.model.encode_text(clip.tokenize([captions[row] for row in rows])), dim=-1)

    images, others = embed_images(pairs.images[rows]), embed_images(copies)
    texts, others_texts = embed_texts(pairs.captions), embed_texts(changed)
    scale, right = clip.model.logit_scale.exp(), torch.arange(8)
    across = functional.cross_entropy(scale * images @ texts.T, right)
    across = (across + functional.cross_entropy(scale * texts @ images.T, right)) / 2
    inside = functional.cross_entropy(scale * images @ others.T, right)
    inside = (inside + functional.cross_entropy(scale * texts @ others_texts.T, right)) / 2
    (across + 0.7 * inside).backward()
    # The first step of AdamW moves each weight by the learning rate against the sign of its gradient. Biases are not
    # decayed; where a gradient is almost zero its sign depends on rounding.
    for name in ("visual.ln_post.bias", "ln_final.bias", "logit_scale"):
        parameter = clip.model.get_parameter(name)
        expected = parameter.detach() - options.learning_rate * parameter.grad.sign()
        assert torch.isclose(tuned[name], expected, atol=1e-6).float().mean() > 0.98


def test_only_the_first_pairs_are_used(victim, pairs):
    others = pairs._replace(
        images=torch.cat([pairs.images[:4], 255 - pairs.images[4:]]), captions=[*pairs.captions[:4], *["a ring."] * 4]
    )
    torch.manual_seed(1)
    first = cleanclip.fit(victim, pairs, settings(pairs=4))
    torch.manual_seed(1)
    second = cleanclip.fit(victim, others, settings(pairs=4))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_weight_of_self_supervision_matters(victim, pairs):
    results = []
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        results.append(cleanclip.fit(victim, pairs, settings(self_supervision=weight))["visual.proj"])
    assert not torch.equal(*results)


def test_training_lowers_clips_own_loss_on_its_pairs(victim, pairs):
    def loss(defended):
        images = functional.normalize(defended.image(pairs.images.float() / 255), dim=-1)
        texts = defended.staged.features_of(list(pairs.captions))
        return contrastive_loss(torch.tensor(10.0), images, texts).item()

    tensors = cleanclip.fit(victim, pairs, settings(epochs=15, batch_size=8, learning_rate=3e-4))
    with torch.no_grad():
        assert loss(cleanclip.load(tensors, victim, settings())) < loss(victim) - 0.1
