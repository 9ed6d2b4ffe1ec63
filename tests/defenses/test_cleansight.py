import dataclasses
import math

import pytest
import torch

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from bench.datasets.world_questions import questions
from bench.defenses import blur, cleansight
from bench.defenses.cleansight import Options, Rule, Watch, detection_layers
from bench.errors import UserError
from bench.lvlm.answering import answer, encode, inputs_of
from bench.lvlm.attention import opened
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.loading import build, with_tower
from bench.lvlm.model import Lvlm
from bench.lvlm.pretrain import images_of
from bench.lvlm.questions import Questions

ASKED = questions(14, 31)
TEXTS = [one.text for one in ASKED]
IMAGES = images_of(ASKED)
NEVER, ALWAYS = math.inf, -1.0


@pytest.fixture(scope="module")
def lvlm() -> Lvlm:
    """mini_llava with random weights that are large enough for its attention to differ from place to place."""
    made = with_tower(build("mini_llava", 4))
    made.model.requires_grad_(False)
    for layer in made.layers:
        layer.self_attn.q_proj.weight.mul_(5)
        layer.self_attn.k_proj.weight.mul_(5)
    return made


@pytest.fixture(scope="module")
def tensors(lvlm: Lvlm) -> dict[str, torch.Tensor]:
    asked = questions(210, 32)
    data = Questions((images_of(asked) * 255).round().to(torch.uint8), [one.text for one in asked])
    return cleansight.fit(DefendedLvlm(lvlm), data, Options())


def defended(lvlm: Lvlm, tensors: dict[str, torch.Tensor], threshold: float, tau: float) -> DefendedLvlm:
    options = Options(tau=tau)
    return cleansight.load(tensors | {"threshold": torch.tensor(threshold)}, DefendedLvlm(lvlm), options)


@pytest.mark.parametrize(
    ("threshold", "tau"), [(NEVER, 0.01), (ALWAYS, 1.1)], ids=["nothing flagged", "nothing hidden"]
)
def test_with_the_defense_off_every_token_is_the_undefended_models(
    lvlm: Lvlm, tensors: dict[str, torch.Tensor], threshold: float, tau: float
) -> None:
    guarded = defended(lvlm, tensors, threshold, tau).answer(IMAGES, TEXTS, longest=8)
    assert guarded.texts == answer(lvlm, IMAGES, TEXTS, longest=8)
    assert guarded.alarms.tolist() == [threshold == ALWAYS] * len(TEXTS)


def test_scores_that_come_back_as_they_were_give_eager_attention_bit_for_bit(lvlm: Lvlm) -> None:
    encoded = encode(lvlm, TEXTS)

    def logits() -> torch.Tensor:
        return lvlm.model(**inputs_of(lvlm, IMAGES, encoded)).logits

    decoder = lvlm.family.decoder(lvlm.model)
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    with torch.no_grad():
        eager = logits()
        with opened(lvlm, lambda layer, scores: scores):
            assert torch.equal(logits(), eager)
    assert decoder.config._attn_implementation == "eager"
    decoder.set_attn_implementation(before)


def test_the_model_is_as_it_was_afterwards_even_if_the_edit_fails(lvlm: Lvlm) -> None:
    decoder = lvlm.family.decoder(lvlm.model)
    before = decoder.config._attn_implementation

    def fails(layer: int, scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), opened(lvlm, fails):
        answer(lvlm, IMAGES[:1], TEXTS[:1])
    assert decoder.config._attn_implementation == before
    assert not any(hasattr(layer.self_attn, "edit") for layer in lvlm.layers)
    answer(lvlm, IMAGES[:1], TEXTS[:1], longest=2)


def test_hidden_tokens_get_no_attention_in_later_layers_and_in_all_layers_of_later_steps(
    lvlm: Lvlm, tensors: dict[str, torch.Tensor]
) -> None:
    tau = 0.15
    rule = Rule(Options(tau=tau), 6, tensors | {"threshold": torch.tensor(ALWAYS)})
    seen = []

    class Recording(Watch):
        def __call__(self, layer: int, scores: torch.Tensor) -> torch.Tensor:
            before = scores.softmax(-1)
            changed = super().__call__(layer, scores)
            seen.append((layer, scores.shape[-2] > 1, before, changed.softmax(-1)))
            return changed

    watches = []

    def guard(encoded):
        watches.append(Recording(rule, encoded, lvlm.image_token_id))
        return watches[-1]

    DefendedLvlm(lvlm, guard=guard).answer(IMAGES, TEXTS, longest=4)
    (watch,) = watches
    hidden = watch.hidden
    assert hidden.any(dim=1).sum() > 0, "the case is one in which something is hidden"
    assert not hidden.all(dim=1).any()
    stealing = {prompt: before for layer, prompt, before, _ in seen if (layer, prompt) == (4, True)}[True][:, :, -1]
    assert torch.equal(hidden, (stealing > tau).any(dim=1) & watch._image)
    attended = encode(lvlm, TEXTS).attended.bool()
    steps = {True: 0, False: 0}
    for layer, prompt, before, after in seen:
        steps[prompt] += 1
        later = hidden.new_zeros(len(hidden), after.shape[-1] - hidden.shape[1])
        places = torch.cat([hidden, later], dim=1)[:, None, None].expand_as(after)
        # What padding attends to is nobody's business.
        real = attended[:, None, :, None] if prompt else torch.ones_like(after, dtype=torch.bool)
        if prompt and layer < 4:
            assert torch.equal(before, after)
        else:
            assert after[places & real].max() < 1e-6
    assert steps == {True: 6, False: 18}


def test_rows_of_a_batch_do_not_touch_each_other(lvlm: Lvlm, tensors: dict[str, torch.Tensor]) -> None:
    guarded = defended(lvlm, tensors, tensors["threshold"].item(), 0.15)
    noisy = IMAGES.clone()
    noisy[::2, :, 20:28, 20:28] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    together = guarded.answer(noisy, TEXTS, longest=6)
    for row in range(len(TEXTS)):
        alone = guarded.answer(noisy[row : row + 1], TEXTS[row : row + 1], longest=6)
        assert alone.texts == together.texts[row : row + 1]
        assert alone.alarms.tolist() == together.alarms[row : row + 1].tolist()
        torch.testing.assert_close(alone.distances, together.distances[row : row + 1], rtol=1e-3, atol=1e-3)


def test_one_percent_of_the_calibration_prompts_exceed_the_threshold(
    lvlm: Lvlm, tensors: dict[str, torch.Tensor]
) -> None:
    asked = questions(200, 32)
    guarded = cleansight.load(tensors, DefendedLvlm(lvlm), Options())
    answers = guarded.answer(images_of(asked), [one.text for one in asked], longest=1)
    assert answers.alarms.sum() == 2
    assert tensors["mean"].shape == tensors["deviation"].shape == (3 * 4,)


def test_ratios_are_those_of_the_last_tokens_attention_to_image_and_question(lvlm: Lvlm) -> None:
    encoded = encode(lvlm, TEXTS)
    watch = Watch(Rule(Options(), 6), encoded, lvlm.image_token_id)
    decoder = lvlm.family.decoder(lvlm.model)
    before = decoder.config._attn_implementation
    with torch.no_grad(), opened(lvlm, watch):
        lvlm.model(**inputs_of(lvlm, IMAGES, encoded))
    decoder.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = lvlm.model(output_attentions=True, **inputs_of(lvlm, IMAGES, encoded)).attentions
    decoder.set_attn_implementation(before)
    for row in range(len(TEXTS)):
        places = (encoded.ids[row] == lvlm.image_token_id).nonzero().flatten()
        by_hand = []
        for layer in (2, 3, 4):
            for head in range(4):
                weights = attentions[layer][row, head, -1]
                by_hand.append(weights[places].sum() / weights[places[-1] + 1 :].sum())
        torch.testing.assert_close(watch.ratios[row], torch.stack(by_hand), rtol=1e-3, atol=1e-4)


def test_the_layers_are_the_same_share_of_every_depth() -> None:
    assert detection_layers(Options(), 32) == range(10, 25)
    assert detection_layers(Options(), 6) == range(2, 5)
    with pytest.raises(UserError, match=r"first 0.9 and last 0.75 leave no layer of 6"):
        detection_layers(Options(first=0.9), 6)


def test_a_model_whose_attention_is_not_accessible_is_told() -> None:
    class Closed:
        layers = (torch.nn.Linear(2, 2),)

    class Family:
        @staticmethod
        def decoder(model: object) -> type[Closed]:
            return Closed

    lvlm = dataclasses.replace(build("mini_llava"), family=Family)
    with pytest.raises(UserError, match="'mini_llava': the decoder's attention is not accessible"), opened(lvlm, max):
        pass


def test_blur_of_no_width_is_nothing_and_a_blurred_image_is_smoother_and_as_bright(lvlm: Lvlm) -> None:
    victim = DefendedLvlm(lvlm)
    assert blur.load({}, victim, blur.Options(sigma=0)) is victim
    made = blur.load({}, victim, blur.Options(kernel=3, sigma=1.0))
    assert made.pixels is not None
    smooth = made.pixels(IMAGES)
    assert smooth.shape == IMAGES.shape
    assert 0 <= smooth.min() <= smooth.max() <= 1
    assert (smooth.diff(dim=-1).abs().mean() < 0.8 * IMAGES.diff(dim=-1).abs().mean()).all()
    torch.testing.assert_close(smooth.mean(), IMAGES.mean(), rtol=0.02, atol=0)
    blurred = dataclasses.replace(victim, pixels=made.pixels).answer(IMAGES, TEXTS, longest=2)
    assert blurred.texts == answer(lvlm, smooth, TEXTS, longest=2)
