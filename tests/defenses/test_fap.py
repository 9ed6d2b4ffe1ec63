import pytest
import torch

from bench.defenses import fap

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def halves(count=5, classes=4):
    return torch.randn(count, 6), torch.randn(count, 6), torch.randn(count, classes), torch.randn(count, classes)


def gated(clean, attacked, clean_logits, attacked_logits):
    return fap.gated_divergence(torch.cat([clean, attacked]), torch.cat([clean_logits, attacked_logits]))


def test_defaults_are_the_official_scripts():
    options = fap.Options()
    assert (options.learning_rate, options.epochs, options.batch_size, options.augment) == (0.0035, 10, 4, False)
    assert (options.length, options.depth, options.divergence, options.attack_loss) == (2, 9, 1.5, "kl")
    assert (options.eps, options.step_size, options.attack_steps, options.literal_template) == (1.0, 1.0, 2, False)


def test_the_second_term_is_the_divergence_of_attacked_from_clean_times_cosine_plus_one():
    clean, attacked, clean_logits, attacked_logits = halves()
    p, q = clean_logits.softmax(dim=-1), attacked_logits.softmax(dim=-1)
    gate = (clean * attacked).sum(dim=-1) / clean.norm(dim=-1) / attacked.norm(dim=-1) + 1
    expected = ((p * (p / q).log()).sum(dim=-1) * gate).mean()
    backwards = ((q * (q / p).log()).sum(dim=-1) * gate).mean()
    value = gated(clean, attacked, clean_logits, attacked_logits)
    torch.testing.assert_close(value, expected)
    assert (value - backwards).abs() > 0.01


def test_the_second_term_is_zero_without_a_change_and_never_negative():
    clean, attacked, clean_logits, attacked_logits = halves(200)
    assert gated(clean, clean, clean_logits, clean_logits).item() == pytest.approx(0, abs=1e-6)
    for row in range(len(clean)):
        assert gated(*(part[row : row + 1] for part in (clean, attacked, clean_logits, attacked_logits))) >= -1e-6


def test_opposite_embeddings_close_the_gate():
    clean, _, clean_logits, attacked_logits = halves()
    assert gated(clean, -clean, clean_logits, attacked_logits).item() == pytest.approx(0, abs=1e-5)


def test_nothing_is_detached():
    parts = [part.requires_grad_() for part in halves()]
    gated(*parts).backward()
    assert all(part.grad.abs().sum() > 0 for part in parts)


@pytest.mark.parametrize("attack_loss", ["kl", "ce"])
def test_training_uses_clean_and_attacked_images(recording, few, attack_loss):
    options = fap.Options(epochs=1, batch_size=8, eps=4.0, attack_loss=attack_loss)
    fap.fit(recording, few, options)
    seen = [images for _, images in recording.log]
    target = 1 if attack_loss == "kl" else 0
    assert len(seen) == target + options.attack_steps + 1
    clean, attacked = seen[-1].chunk(2)
    assert torch.equal(clean, seen[0]) or attack_loss == "ce"
    assert 0 < (clean - attacked).abs().max() <= 4 / 255 + 1e-6


def test_the_literal_template_changes_the_sentence(victim, few):
    options = {"epochs": 1, "batch_size": 8}
    plain, raw = fap.Options(**options), fap.Options(**options, literal_template=True)
    tensors = fap.fit(victim, few, plain)
    task = few.task._replace(template="a drawing of the {}.")
    texts = [fap.load(tensors, victim, chosen).texts(task) for chosen in (plain, raw)]
    assert not torch.equal(*texts)
    # The mini CLIP's tokenizer has no braces, so that only the template's words remain.
    edits = fap.load(tensors, victim, raw).text_edits
    sentences = [f"x x of the. {name}." for name in few.task.class_names]
    assert torch.equal(texts[1], victim.staged.features_of(sentences, edits))


def test_at_weight_0_only_clean_cross_entropy_is_left(victim, few):
    def tuned(**changes):
        torch.manual_seed(1)
        options = fap.Options(epochs=1, warmup_epochs=0, batch_size=8, weight_decay=0.0, learning_rate=1.0, **changes)
        return fap.fit(victim, few, options)["vectors.image_3"]

    assert torch.allclose(tuned(divergence=0.0), tuned(eps=0.0), atol=1e-6)
    assert not torch.allclose(tuned(divergence=0.0), tuned(eps=8.0, divergence=20.0), atol=1e-6)
