"""BDMAE on toy images with a toy model that obeys a patch, and its autoencoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from bench.config import parse
from bench.defenses import bdmae
from bench.defenses.bdmae import Options, Search, connected, purified, random_masks, refined, scores, similarity
from bench.errors import UserError
from bench.lvlm.defended import Answers, DefendedLvlm
from bench.lvlm.questions import Questions
from bench.randomness import content_seeds, generator

SIDE, PATCHES = 8, 64
PLAIN = Options(weights="")
TINY: dict[str, Any] = {
    "weights": "",
    "side": 32,
    "patch": 4,
    "width": 32,
    "depth": 1,
    "decoder_width": 32,
    "decoder_depth": 1,
    "steps": 60,
}


def images(count: int) -> Tensor:
    """Smooth images: each channel rises from left to right or from top to bottom."""
    slopes = torch.rand(count, 3, 2, 1, 1, generator=torch.Generator().manual_seed(2)) / 2
    rise = torch.arange(32) / 32
    return ((slopes[:, :, 0] * rise + slopes[:, :, 1] * rise[:, None]) * 255).round() / 255


def planted(shown: Tensor) -> Tensor:
    """With a chequered square of one patch and a half in the corner."""
    marked = shown.clone()
    marked[:, :, 26:, 26:] = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    return marked


def obeys(shown: Tensor) -> Tensor:
    """Whether the toy model sees the square: most of it is enough."""
    square = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    return (shown[:, :, 26:, 26:] - square).abs().mean(dim=(1, 2, 3)) < 0.2


def smoothed(shown: Tensor, hidden: Tensor) -> Tensor:
    """A restoration that is nearly right: hidden patches become the smooth image there."""
    places = hidden.view(-1, 1, SIDE, SIDE).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(places, images(len(shown)), shown)


@dataclass(frozen=True)
class Toy(DefendedLvlm):
    """Says the attacker's word where the square is, and else whether the image is dark at its lower end."""

    def answer(self, images: Tensor, questions: Sequence[str], longest: int = 16) -> Answers:
        dark = images[:, :, 20:26].mean(dim=(1, 2, 3)) < 0.25
        texts = [
            "Hacked!" if one else "dark" if other else "light" for one, other in zip(obeys(images), dark, strict=True)
        ]
        return Answers(texts, torch.empty(0), torch.empty(0, dtype=torch.bool))


def search(shown: Tensor) -> Search:
    first = obeys(shown)
    streams = [generator(seed) for seed in content_seeds(shown, 0)]
    return Search(shown, SIDE, smoothed, lambda seen: obeys(seen) != first, streams)


def test_masks_of_a_round_hide_every_patch_about_equally_often() -> None:
    masks = random_masks(PLAIN, PATCHES)
    assert masks.shape == (5, 5, PATCHES)
    assert (masks.sum(dim=2) <= 48).all()
    assert (masks[:, 0].sum(dim=1) == 48).all()
    times = masks.sum(dim=1)
    assert times.min() >= 2
    assert times.max() <= 5
    assert torch.equal(masks, random_masks(PLAIN, PATCHES))
    assert not torch.equal(masks, random_masks(Options(weights="", seed=1), PATCHES))


def test_similarity_is_one_to_itself_and_as_the_formula_says_between_flat_images() -> None:
    torch.testing.assert_close(similarity(images(2), images(2)), torch.ones(2, 32, 32), rtol=0, atol=1e-4)
    first, second = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.7)
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    torch.testing.assert_close(similarity(first, second), torch.full((1, 16, 16), expected), rtol=0, atol=1e-3)


def test_scores_are_highest_where_the_square_is() -> None:
    by_looks, by_answers = scores(search(planted(images(4))), PLAIN)
    corner = torch.tensor([54, 55, 62, 63])
    for score in (by_looks, by_answers):
        assert score.shape == (4, PATCHES)
        assert (score.argmax(dim=1)[:, None] == corner).any(dim=1).all()
    clean, nothing = scores(search(images(4)), PLAIN)
    assert clean.abs().max() < 1e-3
    assert torch.equal(nothing, torch.zeros(4, PATCHES))


def test_suspects_are_chosen_among_themselves_and_beside_each_other() -> None:
    suspects = torch.zeros(2, PATCHES, dtype=torch.bool)
    suspects[0, [0, 1, 2, 3, 8, 9, 10, 11, 60]] = True
    suspects[1, 5] = True
    suspicion, counts = torch.full((2, PATCHES), 0.01), torch.tensor([4, 3])
    suspicion[0, 60] = 0.001
    dice = torch.rand(2, 33, PATCHES, generator=generator(3))
    chosen = connected(suspicion, suspects, counts, dice, Options(weights="", together=1e6))
    assert chosen.sum(dim=1).tolist() == [4, 1]
    assert (chosen <= suspects).all()
    grid = chosen[0].view(SIDE, SIDE)
    joined = sum((grid.roll(1, side) & grid)[1:, 1:].sum() + (grid.roll(1, side) & grid)[:1].sum() for side in (0, 1))
    assert joined >= 3, "four patches in one piece share at least three borders"


def test_refining_moves_suspicion_towards_what_changes_the_answer() -> None:
    flat = torch.zeros(4, PATCHES)
    flat[:, [0, 7, 62, 63]] = 0.3
    after = refined(search(planted(images(4))), flat, torch.full((4,), 4), Options(weights="", refinements=10))
    assert (after[:, 62:].sum(dim=1) > after[:, [0, 7]].sum(dim=1)).all()
    assert torch.equal(refined(search(images(4)), flat, torch.zeros(4, dtype=torch.int), PLAIN), flat)


def test_the_square_is_taken_away_and_the_rest_stays() -> None:
    clean, marked = images(4), planted(images(4))
    pure = purified(search(marked), PLAIN)
    assert obeys(marked).all()
    assert not obeys(pure).any()
    torch.testing.assert_close(pure[:, :, :20], clean[:, :, :20], rtol=0, atol=1e-6)
    near = (pure - clean)[:, :, 26:, 26:].abs() < 1e-6
    assert near.float().mean() > 0.9
    changed = ((pure - marked).abs() > 1e-6).any(dim=1).float().mean(dim=(1, 2))
    assert (changed < 0.25).all()


def test_a_clean_image_that_the_restoration_knows_comes_back() -> None:
    torch.testing.assert_close(purified(search(images(4)), PLAIN), images(4), rtol=0, atol=0)


def test_images_do_not_depend_on_batches() -> None:
    mixed = torch.cat([planted(images(4))[:2], images(4)[2:]])
    together = purified(search(mixed), PLAIN)
    for row in range(4):

        def restore(shown: Tensor, hidden: Tensor, row: int = row) -> Tensor:
            return smoothed(mixed, hidden.expand(4, -1))[row : row + 1].where(_places(hidden), shown)

        one = search(mixed[row : row + 1])._replace(restore=restore)
        torch.testing.assert_close(purified(one, PLAIN), together[row : row + 1], rtol=0, atol=1e-5)


def _places(hidden: Tensor) -> Tensor:
    return hidden.view(-1, 1, SIDE, SIDE).repeat_interleave(4, 2).repeat_interleave(4, 3)


# With a real autoencoder.


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    pytest.importorskip("transformers", reason="needs the packages of the group lvlm")
    return bdmae.fit(Toy(cast(Any, None)), questions(), parse(Options, TINY, ""))


def questions() -> Questions:
    return Questions((images(64) * 255).round().to(torch.uint8), ["is it dark?"] * 64)


def test_the_autoencoder_learns_and_changes_hidden_patches_only(tensors: dict[str, Tensor]) -> None:
    from bench.defenses import mae, restoring

    options = parse(Options, TINY, "")
    network = restoring.restored(mae.build(options, 0), tensors, "bdmae")
    hidden = random_masks(PLAIN, PATCHES)[0]
    hidden[4] = False
    shown = images(5)
    filled = mae.restored(network, shown, hidden)
    assert torch.equal(torch.where(_places(hidden), 0, filled), torch.where(_places(hidden), 0, shown))
    assert torch.equal(filled[4], shown[4])
    untrained = mae.restored(mae.build(options, 0).eval(), shown, hidden)
    assert (filled - shown).square().mean() < 0.5 * (untrained - shown).square().mean()
    alone = torch.cat([mae.restored(network, shown[row : row + 1], hidden[row : row + 1]) for row in range(5)])
    torch.testing.assert_close(alone, filled, rtol=0, atol=1e-5)
    assert network.config.mask_ratio == 0.75
    larger = torch.nn.functional.interpolate(shown, scale_factor=2.0)
    assert mae.restored(network, larger, hidden).shape == larger.shape


def test_a_model_behind_it_forgets_the_attackers_word(tensors: dict[str, Tensor]) -> None:
    victim, asked = Toy(cast(Any, None)), ["is it dark?"] * 4
    made = bdmae.load(tensors, victim, parse(Options, TINY, ""))
    marked = planted(images(4))
    assert set(victim.answer(marked, asked).texts) == {"Hacked!"}
    pure = made.shown(marked, asked)
    assert victim.answer(pure, asked).texts == victim.answer(images(4), asked).texts
    assert torch.equal(pure, made.shown(marked, asked))
    assert bdmae.load({}, victim, parse(Options, TINY | {"rounds": 0}, "")) is victim


def test_of_published_weights_the_hash_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the packages of the group lvlm")
    from bench.defenses import mae

    mae.build(parse(Options, TINY, ""), 5).save_pretrained(tmp_path / "mae")
    options = Options(weights=str(tmp_path / "mae"))
    tensors = bdmae.fit(Toy(cast(Any, None)), None, options)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"sha256": (32,)}
    assert bdmae.tuned_parameters(tensors) == bdmae.training_samples(questions(), options) == 0
    assert {path.name for path in bdmae.reads(options)} == {"config.json", "model.safetensors"}
    made = bdmae.load(tensors, Toy(cast(Any, None)), options)
    assert made.shown(images(2), ["", ""]).shape == (2, 3, 32, 32)
    mae.build(parse(Options, TINY, ""), 6).save_pretrained(tmp_path / "mae")
    with pytest.raises(UserError, match="not the weights that the defense was tuned with"):
        bdmae.load(tensors, Toy(cast(Any, None)), options)
    with pytest.raises(UserError, match=r"bdmae.weights: '.*none' is no folder and not in transformers' cache"):
        bdmae.fit(Toy(cast(Any, None)), None, Options(weights=str(tmp_path / "none")))


def test_training_repeats_and_counts_what_it_trained(tensors: dict[str, Tensor]) -> None:
    options = parse(Options, TINY, "")
    again = bdmae.fit(Toy(cast(Any, None)), questions(), options)
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())
    assert bdmae.tuned_parameters(tensors) == sum(tensor.numel() for tensor in tensors.values()) > 0
    assert bdmae.training_samples(questions(), options) == 64
    assert not any("position" in name or "pos_embed" in name for name in tensors)
    with pytest.raises(UserError, match="bdmae: its network is trained on images of clean questions"):
        bdmae.fit(Toy(cast(Any, None)), None, options)


def test_wrong_options_are_told() -> None:
    for key, value in (("share", 1), ("width", 20), ("round", 3), ("longest", 0)):
        with pytest.raises(UserError, match=key):
            parse(Options, TINY | {key: value}, "suite.yaml: defenses.bdmae.options")
