import pytest
import torch
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.model import normalise
from bench.clip.staged import ImageEdits, Trace
from bench.defenses import rvpt, vpt
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def fit(victim, few, **changes):
    torch.manual_seed(1)
    return rvpt.fit(victim, few, rvpt.Options(**{"epochs": 2, "length": 4, "learning_rate": 0.1, **changes}))


def repulsion(prompted, reference, **changes):
    return rvpt.repulsion(prompted, reference, rvpt.Options(**changes))


def class_tokens(count=3):
    return [torch.randn(5, 8) for _ in range(count)]


def test_defaults_are_the_papers():
    options = rvpt.Options()
    assert (options.depth, options.length, options.alpha, options.margin) == (3, 50, 2.0, -1.0)
    assert (options.learning_rate, options.epochs, options.batch_size, options.optimizer) == (0.002, 50, 32, "sgd")


def test_repulsion_without_prompts_is_1(mini, few):
    _, reference = rvpt.unprompted(mini, few.images, 4)
    trace = Trace()
    mini.image(few.images, trace=trace)
    assert repulsion(trace.class_tokens[3:], reference[3:]).item() == pytest.approx(1, abs=1e-6)


def test_repulsion_is_the_mean_cosine_over_layers_and_images():
    prompted, reference = class_tokens(), class_tokens()
    cosines = [
        (a[row] @ b[row] / a[row].norm() / b[row].norm()).item()
        for a, b in zip(prompted, reference, strict=True)
        for row in range(5)
    ]
    assert repulsion(prompted, reference).item() == pytest.approx(sum(cosines) / 15, abs=1e-6)
    negated = [-tokens for tokens in reference]
    assert repulsion(negated, reference).item() == pytest.approx(-1, abs=1e-6)


def test_repulsion_is_not_pushed_below_its_margin_image_by_image():
    reference = [functional.normalize(torch.randn(2, 8), dim=-1)]
    prompted = [torch.stack([reference[0][0], -reference[0][1]]).requires_grad_()]
    value = repulsion(prompted, reference, margin=0.5)
    assert value.item() == pytest.approx((1 + 0.5) / 2, abs=1e-6)
    prompted = [(reference[0] + 0.1 * torch.tensor([[1.0], [0.0]]) - 5 * torch.tensor([[0.0], [1.0]])).requires_grad_()]
    repulsion(prompted, reference, margin=0.5).backward()
    assert prompted[0].grad[0].abs().sum() > 0
    assert prompted[0].grad[1].abs().sum() == 0


def test_margin_1_gives_no_repulsion_gradient():
    prompted, reference = [tokens.requires_grad_() for tokens in class_tokens()], class_tokens()
    repulsion(prompted, reference, margin=1.0).backward()
    assert all((tokens.grad == 0).all() for tokens in prompted)


def test_alpha_0_and_margin_1_are_both_plain_visual_prompt_tuning(victim, few):
    without = fit(victim, few, alpha=0.0)
    at_margin = fit(victim, few, alpha=2.0, margin=1.0)
    repelled = fit(victim, few, alpha=2.0)
    for name, prompts in without.items():
        assert torch.equal(at_margin[name], prompts)
        assert not torch.equal(repelled[name], prompts)


def test_reference_class_tokens_are_the_frozen_models(mini, few):
    outputs = []
    handles = [block.register_forward_hook(lambda *call: outputs.append(call[2])) for block in mini.image_blocks]
    with torch.no_grad():
        mini.clip.model.encode_image(normalise(mini.clip, few.images))
    for handle in handles:
        handle.remove()
    _, reference = rvpt.unprompted(mini, few.images, 4)
    for tokens, output in zip(reference, outputs, strict=True):
        assert torch.equal(tokens, output[:, 0])
        assert not tokens.requires_grad


@pytest.mark.parametrize("depth", [0, 3, 5])
def test_the_pass_that_starts_after_the_unprompted_blocks_equals_a_full_pass(mini, few, depth):
    layers = range(depth + 1, len(mini.image_blocks) + 1)
    edits = ImageEdits(prompts={layer: torch.randn(4, mini.image_width) for layer in layers})
    entry, _ = rvpt.unprompted(mini, few.images, depth + 1)
    short, full = Trace(), Trace()
    assert torch.equal(mini.image_from(entry, depth + 1, edits, short), mini.image(few.images, edits, full))
    for late, whole in zip(short.class_tokens, full.class_tokens[depth:], strict=True):
        assert torch.equal(late, whole)


@pytest.mark.parametrize(
    ("changes", "prompted", "repelled"),
    [
        ({"depth": 3}, [4, 5, 6, 7, 8, 9, 10, 11, 12], [4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ({"depth": 8, "end": "input"}, [1, 2, 3, 4], [1, 2, 3, 4]),
        ({"depth": 6, "permutation": "overlap"}, [7, 8, 9, 10, 11, 12], [7, 8, 9, 10, 11, 12]),
        ({"depth": 6, "permutation": "split"}, [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]),
        ({"depth": 6, "permutation": "intertwine"}, [1, 3, 5, 7, 9, 11], [2, 4, 6, 8, 10, 12]),
        ({"depth": 6, "permutation": "mix"}, [4, 5, 6, 7, 8, 9], [7, 8, 9, 10, 11, 12]),
        ({"depth": 8, "permutation": "split"}, [5, 6, 7, 8], [9, 10, 11, 12]),
        ({"depth": 8, "permutation": "intertwine"}, [5, 7, 9, 11], [6, 8, 10, 12]),
    ],
)
def test_layers_that_are_prompted_and_repelled(changes, prompted, repelled):
    assert rvpt.layer_sets(12, rvpt.Options(**changes)) == (prompted, repelled)


@pytest.mark.parametrize("changes", [{"depth": 3}, {"depth": 6, "end": "input"}])
def test_permutations_that_do_not_fit_are_refused(changes):
    with pytest.raises(UserError, match="permutation 'split' needs end 'output' and a depth of at least half"):
        rvpt.layer_sets(12, rvpt.Options(permutation="split", **changes))


@pytest.mark.parametrize("changes", [{"end": "input"}, {"permutation": "split"}, {"permutation": "intertwine"}])
def test_what_prompts_put_out_never_reaches_a_block_without_prompts(victim, few, changes):
    options = rvpt.Options(length=4, depth=3, **changes)
    tensors, lengths = fit(victim, few, depth=3, epochs=1, **changes), []
    handles = [
        block.register_forward_pre_hook(lambda *call: lengths.append(call[1][0].shape[1]))
        for block in (block.ln_1 for block in victim.staged.image_blocks)
    ]
    rvpt.load(tensors, victim, options).image(few.images)
    for handle in handles:
        handle.remove()
    prompted, _ = rvpt.layer_sets(6, options)
    own = 1 + victim.staged.patches
    assert lengths == [own + 4 * (layer in prompted) for layer in range(1, 7)]


def test_l1_and_l2_grow_with_the_distance_of_normalised_tokens():
    (a,), (b,) = class_tokens(1), class_tokens(1)
    unit = functional.normalize(a, dim=-1) - functional.normalize(b, dim=-1)
    for distance, sizes in (("l1", unit.abs()), ("l2", unit.square())):
        for reduction in ("mean", "sum"):
            expected = -getattr(sizes, reduction)(dim=-1).mean()
            found = repulsion([5 * a], [b], distance=distance, reduction=reduction)
            torch.testing.assert_close(found, expected)
    # A summed squared distance of unit vectors is 2 - 2 cos, so it is the cosine loss with twice the weight.
    torch.testing.assert_close(repulsion([a], [b], distance="l2", reduction="sum"), 2 * repulsion([a], [b]) - 2)


def test_a_margin_belongs_to_the_cosine():
    with pytest.raises(ValueError, match="margin is one of the cosine"):
        rvpt.Options(distance="l1", margin=0.5)


def test_vpt_is_rvpt_without_repulsion(victim, few):
    torch.manual_seed(1)
    tensors = vpt.fit(victim, few, vpt.Options(epochs=2, length=4, learning_rate=0.1))
    for name, prompts in fit(victim, few, alpha=0.0).items():
        assert torch.equal(tensors[name], prompts)
    with pytest.raises(ValueError, match="alpha"):
        vpt.Options(alpha=2.0)


def test_prompts_exist_only_for_the_blocks_after_depth(victim, few):
    tensors = fit(victim, few, depth=4, epochs=1)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "prompt.5": (4, victim.staged.image_width),
        "prompt.6": (4, victim.staged.image_width),
    }


@pytest.mark.parametrize("depth", [6, 7])
def test_a_depth_that_leaves_no_block_is_refused(victim, few, depth):
    with pytest.raises(UserError, match=f"depth {depth} leaves no block to prompt in a tower of 6 blocks"):
        fit(victim, few, depth=depth)


def test_an_image_tower_that_is_edited_already_is_refused(victim, few):
    options = rvpt.Options(length=4)
    tensors = fit(victim, few)
    once = rvpt.load(tensors, victim, options)
    with pytest.raises(UserError, match="no other defense has put prompts into"):
        rvpt.load(tensors, once, options)


def test_the_loaded_model_has_the_prompts_and_the_victims_texts(victim, few):
    tensors = fit(victim, few)
    defended = rvpt.load(tensors, victim, rvpt.Options(length=4))
    edits = ImageEdits(prompts={layer: tensors[f"prompt.{layer}"] for layer in (4, 5, 6)})
    assert torch.equal(defended.image(few.images), victim.staged.image(few.images, edits))
    assert torch.equal(defended.texts(few.task), victim.texts(few.task))


def test_training_lowers_its_own_loss_and_the_repulsion(victim, few):
    def losses(tensors):
        defended, trace = rvpt.load(tensors, victim, rvpt.Options(length=4)), Trace()
        embedded = defended.image(few.images, trace)
        cosine = functional.cosine_similarity(embedded[:, None], victim.texts(few.task)[None], dim=-1)
        fitted = functional.cross_entropy(victim.staged.clip.model.logit_scale.exp() * cosine, few.labels)
        _, reference = rvpt.unprompted(victim.staged, few.images, 4)
        repelled = repulsion(trace.class_tokens[3:], reference[3:])
        return (fitted + 2 * repelled).item(), repelled.item()

    # One epoch is all warm-up, at a rate that leaves the prompts where they were drawn.
    before, after = (losses(fit(victim, few, epochs=epochs, augment=False)) for epochs in (1, 15))
    assert after[0] < before[0] - 0.2
    assert after[1] < before[1] - 0.1


def test_a_loss_that_is_not_finite_stops_with_the_fix(mini, few):
    broken = few._replace(images=few.images * float("nan"))
    with pytest.raises(FloatingPointError, match=r"rvpt: the loss is nan in epoch 1; lower learning_rate"):
        fit(DefendedCLIP(mini), broken, augment=False)
