"""What V-Attack sees of image towers, and its way from a suite to tables."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional
from typer.testing import CliRunner

pytest.importorskip("transformers", reason="needs the packages of the group lvlm")

from transformers import AttentionInterface
from transformers.models.clip.modeling_clip import eager_attention_forward

from bench.attacks import v_attack
from bench.attacks.checked import run_attack
from bench.cli import app
from bench.clip.model import Base
from bench.clip.model import load as load_clip
from bench.clip.values import clip_view
from bench.config import Suite, load_suite
from bench.datasets.store import open_split, read_manifest
from bench.defenses import r_adapt_lvlm
from bench.errors import UserError
from bench.evaluation.record import Record
from bench.leaderboard.collect import write_cells
from bench.leaderboard.table import write_table
from bench.lvlm.defended import DefendedLvlm
from bench.lvlm.evaluate import evaluate
from bench.lvlm.loading import build, load
from bench.lvlm.model import Lvlm
from bench.lvlm.verdict import RIGHT, TARGET, named
from bench.lvlm.views import clip_behind, tower_view
from bench.overview.check import check_suite
from bench.paths import Paths, paths_for
from bench.randomness import sample_seeds

# One process makes what they share.
pytestmark = pytest.mark.xdist_group("views")
WORDS = ["circle", "star"]
STEPS = 6
SMALL: dict[str, Any] = {
    "protocol": {"version": 1, "batch_size": 16, "seeds": [1], "shots": 1},
    "datasets": {"world_objects": {"test": 12, "val": 12}, "world_questions": {"train_per_kind": 3, "val_per_kind": 1}},
    "checkpoints": {
        "llava": {"base": {"architecture": "mini_llava", "weights": "shipped"}, "trigger": "none"},
        "qwen": {"base": {"architecture": "qwen3_vl_8b", "weights": "random"}, "trigger": "none"},
    },
    "surrogates": {"small": {"recipe": "shipped", "options": {"architecture": "mini_small"}}},
    "attacks": {
        "clean": {"threat_model": "none"},
        "white": {"threat_model": "white_box", "method": "v_attack", "options": {"steps": STEPS}},
        "grey": {"threat_model": "grey_box", "method": "v_attack", "options": {"steps": STEPS}},
        "transfer": {
            "threat_model": "transfer",
            "method": "v_attack",
            "surrogates": ["small"],
            "options": {"steps": 2, "crop": 0.75},
        },
    },
    "tracks": {
        "llava": {
            "checkpoints": ["llava"],
            "datasets": ["world_objects"],
            "splits": ["caption", "questions"],
            "pairs": "world_questions",
            "attacks": ["clean", "white", "grey"],
            "defenses": {
                "none": {},
                "anchor": {"method": "r_adapt_lvlm", "options": {"alpha": 0.8, "beta": 0.2, "cutoff": 5.7}},
                "plus": {
                    "method": "r_adapt_plus_lvlm",
                    "options": {"cutoff": 5.7, "eps": 8, "samples": 12, "epochs": 1, "attack_steps": 1},
                },
            },
        },
        "qwen": {
            "checkpoints": ["qwen"],
            "datasets": ["world_objects"],
            "splits": ["caption"],
            "attacks": ["clean", "transfer"],
            "defenses": {"none": {}, "anchor": {"method": "r_adapt_lvlm"}},
        },
    },
    "tables": {
        "both": {"title": "Both", "tracks": ["llava"], "rows": ["defense"], "columns": ["split", "attack"]},
    },
}


@pytest.fixture(scope="module")
def shipped() -> Lvlm:
    return load(Base(architecture="mini_llava", weights="shipped"))


def pictures(size: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def test_a_llavas_values_are_those_of_the_clip_that_its_tower_comes_from(shipped: Lvlm) -> None:
    images, mini = pictures(32), load_clip(Base(architecture="mini", weights="shipped"))
    found = tower_view(DefendedLvlm(shipped), clip_behind(shipped), WORDS)(images)
    assert found.shape == (2, 16, 2)
    torch.testing.assert_close(found, clip_view(mini, WORDS)(images))


@torch.no_grad()
def test_values_are_what_the_last_attention_gives_where_each_token_sees_itself_only() -> None:
    lvlm = build("llava_1_5_7b", seed=2)
    tower, images, projection = lvlm.family.tower(lvlm.model), pictures(336), torch.randn(32, 8)
    last, caught = tower.encoder.layers[-1].self_attn, list[torch.Tensor]()

    def alone(module: Any, query: Any, key: Any, value: torch.Tensor, *rest: Any, **others: Any) -> Any:
        if module is last:
            return value.transpose(1, 2), None
        return eager_attention_forward(module, query, key, value, *rest, **others)

    AttentionInterface.register("alone_in_the_end", alone)
    before = tower.config._attn_implementation
    tower.set_attn_implementation("alone_in_the_end")
    handle = last.register_forward_hook(lambda module, inputs, output: caught.append(output[0]))
    pixels = lvlm.inputs(images)["pixel_values"]
    tower(pixels)
    handle.remove()
    tower.set_attn_implementation(before)
    expected = functional.normalize(tower.post_layernorm(caught[0]) @ projection, dim=-1)[:, 1:]
    found = lvlm.family.value_features(lvlm.model, pixels, projection, enhance=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_white_box_view_goes_through_filter_and_anchor(shipped: Lvlm) -> None:
    images, clip, plain = pictures(32), clip_behind(shipped), DefendedLvlm(shipped)
    off, on = (
        r_adapt_lvlm.load(r_adapt_lvlm.fit(plain, None, options), plain, options)
        for options in (r_adapt_lvlm.Options(alpha=0, beta=1, cutoff=None), r_adapt_lvlm.Options(cutoff=6))
    )
    undefended, same, other = (tower_view(model, clip, WORDS)(images) for model in (plain, off, on))
    assert torch.equal(undefended, same)
    assert (undefended - other).abs().max() > 1e-2
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(tower_view(on, clip, WORDS)(pixels).sum(), pixels)
    assert gradient.abs().max() > 0


def test_a_tower_without_the_texts_of_a_clip_is_told() -> None:
    with pytest.raises(
        UserError, match=r"'qwen3_vl_8b' does not see with a CLIP's image tower, .* 'transfer' and surrogates"
    ):
        clip_behind(build("qwen3_vl_8b"))


def test_behind_a_shrunken_model_is_a_random_clip() -> None:
    lvlm = build("llava_1_5_7b")
    pixels = pictures(336).requires_grad_()
    found = tower_view(DefendedLvlm(lvlm), clip_behind(lvlm), WORDS)(pixels)
    assert found.shape == (2, 4, 2)
    (gradient,) = torch.autograd.grad(found.sum(), pixels)
    assert gradient.abs().max() > 0


class Made:
    """A suite with its models, artefacts and records."""

    def __init__(self, folder: Path) -> None:
        self.paths: Paths = paths_for().below(folder)
        self.paths.suite.write_text(yaml.safe_dump(SMALL), "utf-8")
        self.suite: Suite = load_suite(self.paths.suite)

    def record(self, track: str, defense: str, attack: str, split: str) -> Record:
        folder = self.paths.evaluated(track, defense, attack)
        (path,) = folder.glob(f"*.world_objects.{split}.*.json")
        return Record.model_validate_json(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("suite")
    made = Made(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            *(["fetch", name] for name in SMALL["datasets"]),
            ["check"],
            *(["checkpoint", name] for name in SMALL["checkpoints"]),
            ["surrogate", "small"],
            *([verb, track] for track in SMALL["tracks"] for verb in ("defend", "evaluate")),
        ):
            result = CliRunner().invoke(app, command, catch_exceptions=False)
            assert result.exit_code == 0, (command, result.output)
    return made


def test_clean_answers_name_what_is_shown_and_the_controls_two_threat_models_are_one(made: Made, shipped: Lvlm) -> None:
    for split, count in (("caption", 12), ("questions", 36)):
        clean, white, grey = (made.record("llava", "none", attack, split) for attack in ("clean", "white", "grey"))
        assert (clean.metric, white.metric, grey.metric) == ("CU", "RA", "RA")
        assert (clean.n, white.n) == (count, count)
        assert clean.value is not None
        assert clean.value > 80
        assert white.outcome == grey.outcome
        assert white.outcome is not None
        assert white.variants["wanted"] == 100 * white.outcome.predictions.count(TARGET) / count
        assert white.cost is not None
        assert white.cost.backwards <= 2 * STEPS, "an image is attacked once for all questions of a batch"


def test_robust_accuracy_is_counted_on_answers_to_attacked_images(made: Made, shipped: Lvlm) -> None:
    split = open_split(made.paths.data, read_manifest(made.paths.data, "world_objects"), "questions")
    swaps = [(shown, wanted) for shown, _, wanted in (line.partition(" > ") for line in split.swaps)]
    words = sorted({word for swap in swaps for word in swap})
    labels = torch.tensor([[words.index(word) for word in swap] for swap in swaps])
    view = tower_view(DefendedLvlm(shipped), clip_behind(shipped), words)
    found = run_attack(
        v_attack, view, split.batch(range(12)), labels, options=v_attack.Options(steps=STEPS),
        seeds=sample_seeds(1, range(12)),
    )  # fmt: skip
    owners = split.owners.tolist()
    texts = DefendedLvlm(shipped).answer(found.images[owners], list(split.captions), 64).texts
    outcome = made.record("llava", "none", "white", "questions").outcome
    assert outcome is not None
    assert list(outcome.predictions) == [named(text, *swaps[owner]) for text, owner in zip(texts, owners, strict=True)]
    assert set(outcome.labels) == {RIGHT}


def test_anchors_are_told_apart_by_how_they_were_got(made: Made) -> None:
    cards = {name: made.record("llava", name, "grey", "caption") for name in ("none", "anchor", "plus")}
    assert {name: card.tuned_parameters for name, card in cards.items()} == {"none": 0, "anchor": 0, "plus": 17 * 128}
    anchors = [
        load_file(made.paths.defended("llava", name, "llava") / "any.seed1" / f"{method}.safetensors")["anchor"]
        for name, method in (("anchor", "r_adapt_lvlm"), ("plus", "r_adapt_plus_lvlm"))
    ]
    assert 0 < (anchors[0] - anchors[1]).abs().max() < 0.1


def test_a_qwen_is_attacked_by_transfer_at_its_own_size_of_image(made: Made) -> None:
    for defense in ("none", "anchor"):
        record = made.record("qwen", defense, "transfer", "caption")
        assert (record.state, record.metric, record.n) == ("done", "RA", 12), record.reason
        assert list(record.identity.surrogates) == ["small"]


def test_tables_show_captions_and_questions_side_by_side(made: Made) -> None:
    write_cells(made.suite, made.paths)
    write_table(made.suite, "both", made.paths)
    table = (made.paths.boards / "both.md").read_text("utf-8")
    assert "caption white" in table
    assert "questions grey" in table


def test_what_does_not_go_together_is_told(made: Made, tmp_path: Path) -> None:
    content = yaml.safe_load(yaml.safe_dump(SMALL))
    content["tracks"]["qwen"] |= {"attacks": ["white"]}
    content["tracks"]["llava"] |= {"datasets": ["world_questions"], "splits": ["test"], "pairs": ""}
    content["checkpoints"]["clip"] = {"base": {"architecture": "mini", "weights": "shipped"}, "trigger": "none"}
    content["tracks"]["clip"] = {
        "checkpoints": ["clip"], "datasets": ["world_objects"], "splits": ["caption"], "attacks": ["white"],
        "defenses": {"none": {}},
    }  # fmt: skip
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    suite, paths = load_suite(path), made.paths._replace(suite=path)
    with pytest.raises(UserError, match="'qwen3_vl_8b' does not see with a CLIP's image tower"):
        evaluate(suite, "qwen", "none", "white", paths)
    with pytest.raises(UserError, match="does not say what 'white' should turn each image into"):
        evaluate(suite, "llava", "none", "white", paths)
    faults = "\n".join(check_suite(suite, path))
    assert "'white' attacks large vision-language models, which this track has none of" in faults
    assert "defenses.plus: 'r_adapt_plus_lvlm' is tuned on images; name a dataset of them" in faults
