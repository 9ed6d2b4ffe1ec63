import pytest
import torch
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.model import normalise
from bench.clip.staged import ImageEdits, Trace
from bench.defenses import rvpt
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def fit(victim, few, **changes):
    torch.manual_seed(1)
    return rvpt.fit(victim, few, rvpt.Options(**{"epochs": 2, "length": 4, "learning_rate": 0.1, **changes}))


def class_tokens(count=3):
    return [torch.randn(5, 8) for _ in range(count)]


def test_defaults_are_the_papers():
    options = rvpt.Options()
    assert (options.depth, options.length, options.alpha, options.margin) == (3, 50, 2.0, -1.0)
    assert (options.learning_rate, options.epochs, options.batch_size, options.optimizer) == (0.002, 50, 32, "sgd")


def test_repulsion_without_prompts_is_1(mini, few):
    _, reference = rvpt.unprompted(mini, few.images, 3)
    trace = Trace()
    mini.image(few.images, trace=trace)
    assert rvpt.repulsion(trace.class_tokens[3:], reference, -1.0).item() == pytest.approx(1, abs=1e-6)


def test_repulsion_is_the_mean_cosine_over_layers_and_images():
    prompted, reference = class_tokens(), class_tokens()
    cosines = [
        (a[row] @ b[row] / a[row].norm() / b[row].norm()).item()
        for a, b in zip(prompted, reference, strict=True)
        for row in range(5)
    ]
    assert rvpt.repulsion(prompted, reference, -1.0).item() == pytest.approx(sum(cosines) / 15, abs=1e-6)
    negated = [-tokens for tokens in reference]
    assert rvpt.repulsion(negated, reference, -1.0).item() == pytest.approx(-1, abs=1e-6)


def test_repulsion_is_not_pushed_below_its_margin_image_by_image():
    reference = [functional.normalize(torch.randn(2, 8), dim=-1)]
    prompted = [torch.stack([reference[0][0], -reference[0][1]]).requires_grad_()]
    value = rvpt.repulsion(prompted, reference, 0.5)
    assert value.item() == pytest.approx((1 + 0.5) / 2, abs=1e-6)
    prompted = [(reference[0] + 0.1 * torch.tensor([[1.0], [0.0]]) - 5 * torch.tensor([[0.0], [1.0]])).requires_grad_()]
    rvpt.repulsion(prompted, reference, 0.5).backward()
    assert prompted[0].grad[0].abs().sum() > 0
    assert prompted[0].grad[1].abs().sum() == 0


def test_margin_1_gives_no_repulsion_gradient():
    prompted, reference = [tokens.requires_grad_() for tokens in class_tokens()], class_tokens()
    rvpt.repulsion(prompted, reference, 1.0).backward()
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
    for depth in (0, 3, 5):
        _, reference = rvpt.unprompted(mini, few.images, depth)
        assert len(reference) == len(outputs) - depth
        for tokens, output in zip(reference, outputs[depth:], strict=True):
            assert torch.equal(tokens, output[:, 0])
            assert not tokens.requires_grad


@pytest.mark.parametrize("depth", [0, 3, 5])
def test_the_pass_that_starts_after_the_unprompted_blocks_equals_a_full_pass(mini, few, depth):
    layers = range(depth + 1, len(mini.image_blocks) + 1)
    edits = ImageEdits(prompts={layer: torch.randn(4, mini.image_width) for layer in layers})
    entry, _ = rvpt.unprompted(mini, few.images, depth)
    short, full = Trace(), Trace()
    assert torch.equal(mini.image_from(entry, depth + 1, edits, short), mini.image(few.images, edits, full))
    for late, whole in zip(short.class_tokens, full.class_tokens[depth:], strict=True):
        assert torch.equal(late, whole)


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
        _, reference = rvpt.unprompted(victim.staged, few.images, 3)
        repelled = rvpt.repulsion(trace.class_tokens[3:], reference, -1.0)
        return (fitted + 2 * repelled).item(), repelled.item()

    # One epoch is all warm-up, at a rate that leaves the prompts where they were drawn.
    before, after = (losses(fit(victim, few, epochs=epochs, augment=False)) for epochs in (1, 15))
    assert after[0] < before[0] - 0.2
    assert after[1] < before[1] - 0.1


def test_a_loss_that_is_not_finite_stops_with_the_fix(mini, few):
    broken = few._replace(images=few.images * float("nan"))
    with pytest.raises(FloatingPointError, match=r"rvpt: the loss is nan in epoch 1; lower learning_rate"):
        fit(DefendedCLIP(mini), broken, augment=False)
