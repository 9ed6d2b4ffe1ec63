import pytest
import torch

from bench.clip.model import normalise
from bench.clip.staged import Trace
from bench.defenses import advvp
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("seeded", "exact")


def settings(**changes):
    return advvp.Options(**{"epochs": 2, "pad": 4, "attack_steps": 1, **changes})


def prompt_of(staged, **changes):
    return advvp.VisualPrompt(staged, settings(**changes)).requires_grad_(False)


def test_defaults_are_faps():
    options = advvp.Options()
    assert (options.learning_rate, options.epochs, options.batch_size, options.augment) == (40, 10, 4, False)
    assert (options.pad, options.tokens, options.eps, options.step_size, options.attack_steps) == (30, 5, 1, 1, 2)


def test_border_and_tokens_start_from_a_standard_normal(mini):
    numbers = torch.cat([tensor.flatten() for tensor in prompt_of(mini, tokens=20).state_dict().values()])
    assert numbers.mean().item() == pytest.approx(0, abs=0.05)
    assert numbers.std().item() == pytest.approx(1, abs=0.05)


def test_the_border_leaves_the_inside_alone_and_covers_the_rest(mini):
    normalised = torch.randn(2, 3, 32, 32)
    change = prompt_of(mini).border(normalised) - normalised
    assert (change[:, :, 4:-4, 4:-4] == 0).all()
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[4:-4, 4:-4] = False
    assert (change[:, :, frame] != 0).all()
    torch.testing.assert_close(change[0], change[1])


def test_the_border_is_added_after_normalisation(mini, few):
    prompt = prompt_of(mini, tokens=0)
    tokens = mini.image_tokens(few.images, pixels=prompt.border)
    std = torch.tensor(mini.clip.std).view(3, 1, 1)
    # The same border in units of pixels, without leaving the tower's linear first layer.
    shift = prompt.border(torch.zeros(1, 3, 32, 32)) * std
    torch.testing.assert_close(tokens, mini.image_tokens(few.images + shift), atol=1e-4, rtol=1e-4)
    assert (normalise(mini.clip, few.images + shift) - normalise(mini.clip, few.images)).abs().max() > 2


def test_a_zero_border_without_tokens_is_clip(victim, few):
    prompt = prompt_of(victim.staged, tokens=0)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in prompt.state_dict().items()}
    defended = advvp.load(zeros, victim, settings(tokens=0))
    assert torch.equal(defended.image(few.images), victim.image(few.images))
    without = advvp.load(prompt_of(victim.staged, pad=0, tokens=0).state_dict(), victim, settings(pad=0, tokens=0))
    assert torch.equal(without.image(few.images), victim.image(few.images))


def test_tokens_enter_before_the_first_norm_and_are_never_replaced(victim, few):
    prompt, trace = prompt_of(victim.staged), Trace(every_token=True)
    prompt.apply_to(victim).image(few.images, trace)
    own = 1 + victim.staged.patches
    assert {tokens.shape[1] for tokens in trace.tokens} == {own + 5}
    entered = victim.staged.image_tokens(few.images, prompt.tokens, prompt.border)
    torch.testing.assert_close(entered[0, own:], victim.staged.visual.ln_pre(prompt.tokens))


def test_texts_stay_as_they_are_and_every_image_is_attacked(recording, few):
    options = settings(epochs=1, batch_size=8, eps=4.0)
    tensors = advvp.fit(recording, few, options)
    (_, start), (_, attacked) = recording.log
    assert start.shape == attacked.shape == few.images.shape
    defended = advvp.load(tensors, recording, options)
    assert torch.equal(defended.texts(few.task), recording.texts(few.task))


def test_every_number_is_trained(victim, few):
    torch.manual_seed(1)
    start = advvp.VisualPrompt(victim.staged, settings()).state_dict()
    torch.manual_seed(1)
    tensors = advvp.fit(victim, few, settings(weight_decay=0.0, learning_rate=1.0))
    assert all((tensor != start[name]).all() for name, tensor in tensors.items())


def test_a_border_that_covers_the_image_is_refused(victim, few):
    with pytest.raises(UserError, match="pad 30 leaves nothing of an image of 32 pixels"):
        advvp.fit(victim, few, advvp.Options())
