import pytest
import torch
from torch.nn import functional

from bench.clip.staged import Trace
from bench.defenses import advmaple, cba_fapt
from bench.defenses.prompting import Prompts

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def settings(**changes):
    return cba_fapt.Options(**{"epochs": 1, "batch_size": 8, "depth": 6, **changes})


class Passes:
    """One pass of a freshly prompted model over images and class prompts, noted down."""

    def __init__(self, victim, few, images, **changes):
        self.prompts = Prompts(victim.staged, cba_fapt.layout(settings(**changes)))
        self.model, self.staged = self.prompts.apply_to(victim), victim.staged
        self.images, self.sentences = Trace(), Trace()
        self.texts = self.model.texts(few.task, self.sentences)
        self.embedded = self.model.image(images, self.images)


def heads(part, count):
    return part.unflatten(-1, (count, -1)).transpose(1, 2)


def softmax_weights(inner, count, query, mask=None):
    """Attention weights (n, heads, tokens) of one query position each."""
    scores = heads(inner.query, count) @ heads(inner.key, count).transpose(-1, -2)
    scores = scores / heads(inner.key, count).shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask
    return scores.softmax(dim=-1)[torch.arange(len(query)), :, query]


def test_defaults_are_the_papers():
    options = cba_fapt.Options()
    assert (options.natural, options.alpha, options.beta, options.gamma) == (1.0, 5.0, 0.05, 0.03)
    assert (options.learning_rate, options.epochs, options.batch_size, options.augment) == (0.0035, 10, 4, False)
    assert (options.length, options.depth, options.eps, options.step_size, options.attack_steps) == (2, 9, 1, 1, 2)
    assert (options.attack_loss, options.coupling, options.detach_clean, options.text_scale) == ("ce", "fap", False, 1)


def test_tails_give_the_embeddings_of_the_whole_pass(victim, few):
    seen = Passes(victim, few, few.images)
    _, embedded = cba_fapt.image_maps(seen.staged, seen.images, seen.texts[few.labels], settings())
    torch.testing.assert_close(embedded, seen.embedded)
    rows, ends = torch.arange(4), seen.sentences.ends
    entered, attention = seen.sentences.last_input, seen.sentences.last_attention
    written = seen.staged.text_tail(entered[rows, ends], attention[rows, ends])
    torch.testing.assert_close(functional.normalize(written, dim=-1), seen.texts)


def test_with_softmax_weights_image_maps_add_up_to_gradient_times_attention_output(victim, few):
    seen = Passes(victim, few, few.images)
    staged, block = seen.staged, seen.staged.image_blocks[-1]
    attended, count = seen.images.last_attention[:, 0], block.attn.num_heads
    embedded = staged.image_tail(seen.images.last_input[:, 0], attended)
    score = functional.cosine_similarity(embedded, seen.texts[few.labels], dim=-1)
    gradient = cba_fapt.channel_weights(score, attended, block, settings())
    inner = staged.query_key_value(block, seen.images.last_input)
    weights = softmax_weights(inner, count, torch.zeros(8, dtype=torch.long))
    values, gradients = heads(inner.value, count), gradient.unflatten(-1, (count, -1))
    total = sum(
        cba_fapt.attribution(weights[:, head], values[:, head], gradients[:, head]).sum(dim=1) for head in range(count)
    )
    (after,) = torch.autograd.grad(score.sum(), attended)
    # The output projection adds a bias that belongs to no position.
    expected = (after * (attended - block.attn.out_proj.bias)).sum(dim=1)
    torch.testing.assert_close(total, expected, atol=1e-6, rtol=1e-4)


def test_with_softmax_weights_text_maps_add_up_too(victim, few):
    seen = Passes(victim, few, few.images)
    staged, block, ends = seen.staged, seen.staged.text_blocks[-1], seen.sentences.ends
    count, rows = block.attn.num_heads, torch.arange(4)
    attended = seen.sentences.last_attention[rows, ends]
    written = staged.text_tail(seen.sentences.last_input[rows, ends], attended)
    score = functional.cosine_similarity(seen.embedded[:4], written, dim=-1)
    gradient = cba_fapt.channel_weights(score, attended, block, settings())
    inner = staged.query_key_value(block, seen.sentences.last_input)
    weights = softmax_weights(inner, count, ends, staged.clip.model.attn_mask)
    assert (weights[rows, :, ends + 1] == 0).all()
    values, gradients = heads(inner.value, count), gradient.unflatten(-1, (count, -1))
    total = sum(
        cba_fapt.attribution(weights[:, head], values[:, head], gradients[:, head]).sum(dim=1) for head in range(count)
    )
    (after,) = torch.autograd.grad(score.sum(), attended)
    torch.testing.assert_close(total, (after * (attended - block.attn.out_proj.bias)).sum(dim=1), atol=1e-6, rtol=1e-4)


def test_a_map_is_cosine_times_gradient_times_value_on_patches_only(victim, few):
    seen = Passes(victim, few, few.images)
    maps, _ = cba_fapt.image_maps(seen.staged, seen.images, seen.texts[few.labels], settings())
    assert maps.shape == (8, seen.staged.patches)
    assert (maps < 0).any()
    block = seen.staged.image_blocks[-1]
    inner = seen.staged.query_key_value(block, seen.images.last_input)
    attended = seen.images.last_attention
    score = functional.cosine_similarity(
        seen.staged.image_tail(seen.images.last_input[:, 0], attended[:, 0]), seen.texts[few.labels], dim=-1
    )
    (after,) = torch.autograd.grad(score.sum(), attended)
    before = after[3, 0] @ block.attn.out_proj.weight
    query, key = inner.query[3, 0], inner.key[3, 1 + 7]
    expected = (query @ key / query.norm() / key.norm()) * (before @ inner.value[3, 1 + 7])
    torch.testing.assert_close(maps[3, 7], expected, atol=1e-7, rtol=1e-4)


def test_cosines_are_of_all_heads_joined_or_of_each(mini):
    block = mini.image_blocks[-1]
    query, keys = torch.randn(2, mini.image_width), torch.randn(2, 5, mini.image_width)
    joined = cba_fapt.cosines(query, keys, block, settings())
    torch.testing.assert_close(joined, functional.cosine_similarity(query[:, None], keys, dim=-1))
    each = [
        functional.cosine_similarity(q[:, None], k, dim=-1)
        for q, k in zip(query.chunk(4, dim=-1), keys.chunk(4, dim=-1), strict=True)
    ]
    mean = cba_fapt.cosines(query, keys, block, settings(cosine="per_head"))
    torch.testing.assert_close(mean, torch.stack(each).mean(dim=0))


def test_images_of_one_class_have_text_maps_of_their_own(victim, few):
    seen = Passes(victim, few, few.images)
    maps, shown = cba_fapt.text_maps(seen.staged, seen.sentences, seen.embedded, few.labels, settings())
    assert torch.equal(few.labels[:4], few.labels[4:])
    assert (maps[:4] - maps[4:])[shown[:4]].abs().max() > 1e-7
    alone, _ = cba_fapt.text_maps(seen.staged, seen.sentences, seen.embedded[:1], few.labels[:1], settings())
    torch.testing.assert_close(maps[:1], alone, atol=1e-8, rtol=1e-3)


def test_text_maps_cover_the_words_or_start_and_end_too(victim, few):
    seen = Passes(victim, few, few.images)
    passed = (seen.staged, seen.sentences, seen.embedded, few.labels)
    words, everything = (
        cba_fapt.text_maps(*passed, settings(text_positions=positions))[1] for positions in ("words", "all")
    )
    # Start, "a photo of a circle", end.
    assert words[0].nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
    assert everything[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("changes", [{}, {"text_scale": 100.0}, {"text_norm": "relu"}])
def test_text_distributions_live_on_the_positions_that_count(changes):
    maps, shown = 0.01 * torch.randn(3, 6), torch.tensor([0, 1, 1, 1, 0, 0], dtype=torch.bool).expand(3, -1)
    maps = maps.requires_grad_()
    logs = cba_fapt.log_distributions(maps, shown, settings(**changes))
    assert torch.isfinite(logs).all()
    torch.testing.assert_close(logs.exp()[shown].view(3, 3).sum(dim=1), torch.ones(3), atol=1e-4, rtol=0)
    functional.kl_div(logs, logs.detach().flip(0), reduction="batchmean", log_target=True).backward()
    assert torch.isfinite(maps.grad).all()
    assert (maps.grad[~shown].abs() < 1e-6).all()


def alignment(victim, few, attacked, **changes):
    seen = Passes(victim, few, torch.cat([few.images, attacked]))
    options = settings(**changes)
    visual, textual = cba_fapt.alignment(
        seen.staged, seen.images, seen.sentences, seen.texts, few.labels.repeat(2), options
    )
    return seen, visual, textual


def test_equal_images_have_equal_maps_and_finite_gradients(victim, few):
    seen, visual, textual = alignment(victim, few, few.images)
    assert visual.item() == pytest.approx(0, abs=1e-7)
    assert textual.item() == pytest.approx(0, abs=1e-7)
    (visual + textual).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in seen.prompts.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_at": "projection"},
        {"cosine": "per_head"},
        {"text_positions": "all"},
        {"text_norm": "relu"},
        {"text_scale": 100.0},
        {"coupling": "image_to_text"},
    ],
)
def test_both_terms_are_positive_under_attack_and_reach_the_prompts(shipped, few, changes):
    noise = (few.images + 0.2 * torch.randn_like(few.images)).clamp(0, 1)
    seen, visual, textual = alignment(shipped, few, noise, **changes)
    assert visual > 0
    assert textual > 0
    for term in (visual, textual):
        gradients = torch.autograd.grad(term, list(seen.prompts.parameters()), retain_graph=True, allow_unused=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)
        reached = {
            name
            for (name, _), gradient in zip(seen.prompts.named_parameters(), gradients, strict=True)
            if gradient is not None and gradient.abs().sum() > 0
        }
        assert {f"vectors.image_{layer}" for layer in (2, 3, 4, 5, 6)} <= reached


def test_the_divergence_is_from_clean_to_attacked(victim, few):
    noise = (few.images + 0.2 * torch.randn_like(few.images)).clamp(0, 1)
    torch.manual_seed(3)
    seen, _, textual = alignment(victim, few, noise, text_scale=3e4)
    maps, shown = cba_fapt.text_maps(seen.staged, seen.sentences, seen.embedded, few.labels.repeat(2), settings())
    p, q = ((3e4 * part).masked_fill(~shown[:8], -1e9).softmax(dim=-1) + 1e-30 for part in maps.chunk(2))
    forward, backward = ((a * (a / b).log()).sum(dim=-1).mean().item() for a, b in ((p, q), (q, p)))
    assert textual.item() == pytest.approx(forward, rel=1e-3)
    assert textual.item() != pytest.approx(backward, rel=1e-2)


def test_a_detached_clean_map_gives_no_gradient_to_the_clean_pass(victim, few):
    noise = (few.images + 0.2 * torch.randn_like(few.images)).clamp(0, 1)
    for detach in (True, False):
        seen, visual, _ = alignment(victim, few, noise, detach_clean=detach)
        (gradient,) = torch.autograd.grad(visual, seen.images.last_input)
        assert gradient[8:].abs().sum() > 0
        assert (gradient[:8].abs().sum() == 0) == detach


def test_without_natural_term_and_alignment_it_is_advmaple(victim, few):
    common = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "eps": 4.0, "depth": 6}
    torch.manual_seed(1)
    ours = cba_fapt.fit(victim, few, cba_fapt.Options(**common, natural=0, alpha=1, beta=0, gamma=0))
    torch.manual_seed(1)
    theirs = advmaple.fit(victim, few, advmaple.Options(**common))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("row", ["natural", "alpha", "beta", "gamma"])
def test_each_row_of_the_loss_can_be_switched_off(victim, few, row):
    def tuned(**changes):
        torch.manual_seed(1)
        weights = {"natural": 1.0, "alpha": 5.0, "beta": 50.0, "gamma": 50.0, "text_scale": 1e4, **changes}
        return cba_fapt.fit(victim, few, settings(warmup_epochs=0, eps=8.0, **weights))["vectors.image_3"]

    assert not torch.equal(tuned(), tuned(**{row: 0.0}))


def test_attribution_is_not_computed_where_it_has_no_weight(victim, few, monkeypatch):
    monkeypatch.setattr(cba_fapt, "alignment", lambda *_: pytest.fail("attribution was computed"))
    cba_fapt.fit(victim, few, settings(beta=0.0, gamma=0.0))
