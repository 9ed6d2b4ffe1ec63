"""Image-to-text retrieval: ranks against a plain sort, what counts as a hit, and caption sets that are not whole."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench.analyses import retrieval
from bench.analyses.contract import Source
from bench.analyses.subjects.captions import gallery_of, ranks
from bench.attacks import caption_pgd
from bench.attacks.checked import run_attack
from bench.backdoors.checkpoint import load_checkpoint
from bench.clip.classifier import Classifier
from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP
from bench.config import Suite
from bench.datasets.store import Split, open_split, read_manifest
from bench.errors import UserError
from bench.evaluation.metrics import Count, wilson
from bench.randomness import sample_seeds
from tests.analyses.conftest import CLEAN, TUNED


def given(**changes: Any) -> retrieval.Options:
    content: dict[str, Any] = {
        "dataset": "scenes",
        "models": {"CLIP": CLEAN, "tuned": TUNED},
        "conditions": {
            "Clean": [{"attack": "clean"}],
            "eps=8/255": [{"attack": "captions"}, {"attack": "captions_grey"}],
        },
    }
    return retrieval.Options.model_validate(content | changes)


def split_of(captions: list[str], owners: list[int], images: int) -> Split:
    pixels = np.zeros((images, 3, 4, 4), np.uint8)
    return Split(pixels, np.empty(0, np.int64), captions, np.array(owners, np.int64))


@pytest.fixture(scope="module")
def scenes(source: Source) -> Split:
    return open_split(source.paths.data, read_manifest(source.paths.data, "scenes"), "test")


@pytest.fixture(scope="module")
def frame(source: Source) -> pd.DataFrame:
    return retrieval.measure(source, given())


def by_sorting(similarities: list[float], own: set[int]) -> int:
    """The definition, spelled out: walk down the sorted sentences, foreign ones first among equals."""
    order = sorted(range(len(similarities)), key=lambda place: (-similarities[place], place in own))
    return next(step for step, place in enumerate(order) if place in own)


def test_ranks_are_those_of_a_sorted_list_and_ties_count_against_the_model() -> None:
    stream = torch.Generator().manual_seed(0)
    # Few different values, so that ties are everywhere.
    similarities = torch.randint(0, 6, (200, 40), generator=stream).float()
    own = torch.stack([torch.randperm(40, generator=stream)[:5] for _ in range(200)])
    found = ranks(similarities, own)
    expected = [by_sorting(row.tolist(), set(mine.tolist())) for row, mine in zip(similarities, own, strict=True)]
    assert found.tolist() == expected
    assert len(set(expected)) > 5


def test_a_model_that_tells_nothing_apart_finds_nothing() -> None:
    own = torch.arange(15).view(3, 5)
    assert ranks(torch.zeros(3, 15), own).tolist() == [10, 10, 10]
    assert ranks(torch.full((3, 15), math.nan), own).tolist() == [10, 10, 10]


def test_known_ranks() -> None:
    similarities = torch.tensor([[9, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4], [5, 5, 1, 0, 0, 0.0]])
    assert ranks(similarities, torch.tensor([[0, 1], [4, 2], [1, 5]])).tolist() == [0, 2, 1]


def test_a_shared_sentence_stands_once_and_belongs_to_all_its_images() -> None:
    split = split_of(["a ring.", "a red ring.", "a ring.", "a star."], [0, 0, 1, 1], 2)
    gallery = gallery_of(split, 2, "here")
    assert gallery.sentences == ["a ring.", "a red ring.", "a star."]
    assert gallery.own.tolist() == [[0, 1], [0, 2]]
    # Both images are right with the sentence that they share.
    assert ranks(torch.tensor([[3.0, 2, 1], [3, 2, 1]]), gallery.own).tolist() == [0, 0]


def test_the_first_captions_of_each_image_are_taken_whatever_their_order() -> None:
    split = split_of([f"caption {row}" for row in range(7)], [1, 0, 1, 0, 1, 0, 0], 2)
    gallery = gallery_of(split, 3, "here")
    assert [[gallery.sentences[place] for place in own] for own in gallery.own] == [
        ["caption 1", "caption 3", "caption 5"],
        ["caption 0", "caption 2", "caption 4"],
    ]
    assert "caption 6" not in gallery.sentences


def test_one_caption_for_each_image_needs_no_owners() -> None:
    assert gallery_of(split_of(["a star.", "a ring."], [], 2), 1, "here").own.tolist() == [[0], [1]]


def test_the_rendered_scenes_have_five_captions_each(scenes: Split) -> None:
    assert len(scenes.images) == 12
    assert np.bincount(scenes.owners).tolist() == [5] * 12
    gallery = gallery_of(scenes, 5, "here")
    assert gallery.own.shape == (12, 5)
    assert [gallery.sentences[place] for place in gallery.own[3]] == list(scenes.captions[15:20])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (split_of([], [], 2), "has no captions; name a dataset with captions"),
        (split_of(["a", "b", "c"], [0, 1, 5], 2), "has captions of 1 images that are missing; fetch it again"),
        (split_of(["a", "b", "c"], [0, 1], 2), "has 3 captions for 2 owners"),
        (split_of(["a", "b", "c"], [0, 2, 2], 3), "has 2 images with fewer than 2 captions, first image 0 with 1"),
    ],
)
def test_a_caption_set_that_is_not_whole_is_told(split: Split, message: str) -> None:
    with pytest.raises(UserError, match=f"suite: split 'test' of 'x' {message}"):
        gallery_of(split, 2, "suite: split 'test' of 'x'")


def test_recall_is_what_the_similarity_matrix_says(source: Source, scenes: Split, frame: pd.DataFrame) -> None:
    """Once more from open_clip's own encoders, image by image."""
    clip = load_checkpoint(source.paths.checkpoint("tuned")).clip
    sentences = sorted(set(scenes.captions))
    with torch.no_grad():
        texts = clip.model.encode_text(clip.tokenize(sentences), normalize=True)
        pixels = (torch.tensor(np.array(scenes.images)).float() / 255 - 0.5) / 0.25
        similarities = (clip.model.encode_image(pixels, normalize=True) @ texts.T).tolist()
    best = list[int]()
    for row, similarity in enumerate(similarities):
        own = {sentences.index(caption) for caption in scenes.captions[5 * row : 5 * row + 5]}
        best.append(by_sorting(similarity, own))
    for k in (1, 5, 10):
        line = frame[(frame["model"] == "tuned") & (frame["condition"] == "Clean") & (frame["k"] == k)].iloc[0]
        hits = sum(rank < k for rank in best)
        assert (line["hits"], line["n"], line["view"]) == (hits, 12, "none")
        assert line["value"] == pytest.approx(100 * hits / 12)
        assert (line["low"], line["high"]) == pytest.approx(wilson(Count(hits, 12)))
    assert any(rank < 10 for rank in best)


def test_every_view_is_told_and_worst_known_is_the_lowest(frame: pd.DataFrame) -> None:
    attacked = frame[frame["condition"] == "eps=8/255"].pivot(index=["model", "k"], columns="view", values="hits")
    assert list(attacked.columns) == ["grey_box", "white_box", "worst known"]
    assert (attacked["worst known"] <= attacked[["grey_box", "white_box"]].min(axis=1)).all()
    clean = frame[frame["condition"] == "Clean"].set_index(["model", "k"])["hits"]
    assert (attacked["white_box"] <= clean).all()
    # The clean model is the undefended one here, so both attackers see the same model.
    assert (attacked.loc["CLIP", "white_box"] == attacked.loc["CLIP", "grey_box"]).all()


def test_the_table_has_a_line_for_each_threat_model_with_the_clean_value_in_all(frame: pd.DataFrame) -> None:
    lines = retrieval.table(frame, given()).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:5]] == ["model", "threat model", "Clean R@1", "Clean R@5"]
    body = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:8]]
    assert [line[:2] for line in body] == [
        [model, view] for model in ("CLIP", "tuned") for view in ("white box", "grey box", "worst known")
    ]
    assert len({tuple(line[2:5]) for line in body[:3]}) == 1


def test_the_attack_lowers_the_similarity_to_all_own_captions(source: Source, scenes: Split) -> None:
    staged = StagedCLIP(load_checkpoint(source.paths.checkpoint("tuned")).clip)
    gallery, images = gallery_of(scenes, 5, "here"), scenes.batch(range(4))
    texts = staged.features_of(gallery.sentences).detach()
    model = Classifier(lambda pixels: DefendedCLIP(staged).logits(pixels, texts), len(texts), [staged.clip.model])
    own = gallery.own[:4]
    for loss in ("similarity", "cross_entropy"):
        options = caption_pgd.Options(eps=8, step=2, steps=5, loss=loss)
        attacked = run_attack(caption_pgd, model, images, own, options=options, seeds=sample_seeds(1, range(4)))
        before, after = (model(each).gather(1, own).mean(dim=1) for each in (images, attacked.images))
        assert (after < before).all(), loss
        assert attacked.backwards == 4 * 5


def test_what_cannot_be_searched_is_told(source: Source) -> None:
    head = {"probe": {"track": "robust", "defense": "linear_probe", "checkpoint": "clean", "dataset": "shapes"}}
    with pytest.raises(UserError, match="model 'probe' ends in a linear head and reads no captions; leave it out"):
        retrieval.measure(source, given(models=head))
    with pytest.raises(UserError, match=r"options\.dataset: split 'test' of 'shapes' has no captions"):
        retrieval.measure(source, given(dataset="shapes"))
    with pytest.raises(UserError, match=r"options\.conditions\.T\.0: 'trigger' counts a backdoor's success"):
        retrieval.measure(source, given(conditions={"T": [{"attack": "trigger"}]}))


def test_published_numbers_stand_beside_those_of_models_of_the_papers_only(source: Source) -> None:
    with pytest.raises(UserError, match=r"published: model 'CLIP' is a mini model, whose numbers are never set beside"):
        retrieval.measure(source, given(published="r_adapt/table_4"))


def test_published_numbers_are_found_by_row_and_heading(source: Source, tmp_path) -> None:
    folder = tmp_path / "paper" / "published"
    folder.mkdir(parents=True)
    header = "table,row,column,architecture,checkpoint,dataset,defense,attack,eps,metric,setting,value,note"
    lines = [
        "table_4,CLIP,Clean R@1,ViT-L-14,clean,flickr30k,none,clean,,R@1,,86.0,",
        "table_4,CLIP,eps=8/255 R@10,ViT-L-14,clean,flickr30k,none,retrieval,8,R@10,,1.2,",
        "table_4,FARE,Clean R@1,ViT-L-14,clean,flickr30k,fare,clean,,R@1,,78.3,",
    ]
    (folder / "table_4.csv").write_text("\n".join([header, *lines]) + "\n")
    content = source.suite.model_dump()
    content["checkpoints"]["clean"]["base"] = {"architecture": "ViT-B-32", "weights": "random"}
    there = source._replace(suite=Suite.model_validate(content), paths=source.paths._replace(boards=tmp_path / "own"))
    found = retrieval.measure(there, given(models={"CLIP": CLEAN}, published="paper/table_4"))
    told = found[found["view"] == "published"]
    assert told[["model", "condition", "k", "value"]].to_numpy().tolist() == [
        ["CLIP", "Clean", 1, 86.0],
        ["CLIP", "eps=8/255", 10, 1.2],
    ]
    last = retrieval.table(found, given(models={"CLIP": CLEAN})).splitlines()[5]
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["CLIP", "published", "86.0", "-", "-", "-", "-", "1.2"]
