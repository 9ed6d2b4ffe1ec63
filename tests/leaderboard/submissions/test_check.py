"""A good submission of each kind passes, and a bad one is refused by the rule that it breaks, and by no other."""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.evaluation.record import Record
from bench.leaderboard.collect import write_cells
from bench.leaderboard.records import lines_of, read_lines
from bench.leaderboard.submissions import cells, claims, form, images
from bench.leaderboard.submissions.board import board_for
from bench.leaderboard.submissions.check import RULES, Rule
from bench.leaderboard.submissions.read import read_submission
from tests.leaderboard.conftest import record
from tests.leaderboard.submissions.conftest import CELL, HITS, REFERENCE, SHA, Desk

Damage = Callable[[Desk, Path], Any]  # returns where the submission is then, if it moves it
STORED = f"images/{CELL}.safetensors"


def edit(**changes: object) -> Damage:
    """Change the description."""
    return lambda desk, folder: desk.edit(folder, **changes)


def change(made: Callable[[Record], Record]) -> Damage:
    """Change the first record."""
    return lambda desk, folder: desk.change(folder, made)


def numbers(**changes: object) -> Damage:
    """Change what the first record says."""
    return change(lambda record: record.model_copy(update=changes))


def known(**changes: object) -> Damage:
    """Change what the first record depends on."""
    return change(lambda record: record.model_copy(update={"identity": record.identity.model_copy(update=changes)}))


def moved(**changes: object) -> Damage:
    """Change which cell the first record is of."""

    def made(record: Record) -> Record:
        cell = record.identity.cell.model_copy(update=changes)
        return record.model_copy(update={"identity": record.identity.model_copy(update={"cell": cell})})

    return change(made)


def lines(made: Callable[[list[Record]], list[Record]]) -> Damage:
    """Change which records there are."""

    def damage(desk: Desk, folder: Path) -> None:
        path = folder / "records.jsonl"
        path.write_text(lines_of(made(list(read_lines(path)))))
        desk.pack(folder)

    return damage


def other_hits(hits: str) -> Damage:
    """Give the first record other outcomes."""

    def made(old: Record) -> Record:
        return record("nap", "pgd", hits).model_copy(update={"identity": old.identity})

    return change(made)


def known_cell(hits: str) -> Damage:
    """Put a record of a cell that the boards have in the place of the first."""
    return lambda desk, folder: desk.change(folder, lambda _: desk.record("nap", "autoattack", hits))


def text(name: str, content: str) -> Damage:
    """Write a file and list it."""

    def damage(desk: Desk, folder: Path) -> None:
        (folder / name).write_text(content)
        desk.pack(folder)

    return damage


def pixels(made: Callable[[Any], Any]) -> Damage:
    """Make other images of the clean ones."""
    return lambda desk, folder: desk.images(folder, made(desk.pixels))


def of(defense: str) -> Damage:
    """Name another row, in the description and in every record."""

    def damage(desk: Desk, folder: Path) -> None:
        for which in range(len(list(read_lines(folder / "records.jsonl")))):
            desk.change(folder, lambda old: _named(old, defense=defense), which)
        desk.edit(folder, defense=defense)

    return damage


def _named(old: Record, **changes: object) -> Record:
    cell = old.identity.cell.model_copy(update=changes)
    return old.model_copy(update={"identity": old.identity.model_copy(update={"cell": cell})})


def damaged(desk: Desk, folder: Path) -> None:
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"identity": 1}\n')
    desk.pack(folder)


def renamed_attack(desk: Desk, folder: Path) -> None:
    desk.change(folder, lambda old: _named(old, attack="replay", threat_model="grey_box"))
    desk.edit(folder, attack="replay", images={f"nap.replay.{CELL}": STORED})


def other_attack(desk: Desk, folder: Path) -> None:
    desk.change(folder, lambda old: _named(old, attack="fog"))


def without_images(desk: Desk, folder: Path) -> None:
    shutil.rmtree(folder / "images")
    desk.edit(folder, images={})
    desk.pack(folder)


def unlisted(desk: Desk, folder: Path) -> None:
    (folder / "more.png").write_text("x")


def unwritten(desk: Desk, folder: Path) -> None:
    text("gone.png", "x")(desk, folder)
    (folder / "gone.png").unlink()


def link(desk: Desk, folder: Path) -> None:
    (folder / "README.md").symlink_to("/etc/hostname")


def heavy(desk: Desk, folder: Path) -> None:
    with (folder / "README.md").open("wb") as file:
        file.truncate(21 * 2**20)
    desk.pack(folder)


def jpeg(desk: Desk, folder: Path) -> None:
    Image.fromarray(desk.pixels[0].transpose(1, 2, 0)).save(folder / "image.jpg")
    desk.pack(folder)


def bfloat16(desk: Desk, folder: Path) -> None:
    """A type that numpy does not know."""
    save_file({"images": torch.from_numpy(desk.pixels).bfloat16() / 255}, folder / STORED)
    desk.pack(folder)


def pngs(desk: Desk, folder: Path) -> Path:
    """The images as PNGs, one by one; where they are."""
    (folder / STORED).unlink()
    place = folder / "images" / CELL
    place.mkdir()
    for row, image in enumerate(desk.pixels + np.uint8(8)):
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{row}.png")
    desk.edit(folder, images={f"nap.stronger.{CELL}": f"images/{CELL}"})
    desk.pack(folder)
    return place


def disguised(desk: Desk, folder: Path) -> None:
    path = pngs(desk, folder) / "3.png"
    Image.open(path).save(lossy := io.BytesIO(), "JPEG")
    path.write_bytes(lossy.getvalue())
    desk.pack(folder)


def one_png_less(desk: Desk, folder: Path) -> None:
    (pngs(desk, folder) / "3.png").unlink()
    desk.pack(folder)


def elsewhere(desk: Desk, folder: Path) -> None:
    desk.edit(folder, images={f"nap.stronger.{CELL}": "../nap_digits/images"})


def one_too_far(clean: Any) -> Any:
    far = clean + np.uint8(8)
    far[5] += np.uint8(1)
    return far


def no_data(desk: Desk, folder: Path) -> None:
    shutil.rmtree(desk.house.paths.data / "manifests")


def no_control(desk: Desk, folder: Path) -> None:
    (desk.house.paths.records / "robust" / "none" / "autoattack.jsonl").unlink()


def out_of_order(old: Record) -> Record:
    assert old.outcome is not None
    return old.model_copy(update={"outcome": old.outcome.model_copy(update={"rows": (1, 0, *range(2, 8))})})


def lost_flag(desk: Desk, folder: Path) -> None:
    """The boards have a warning about the model, and one about the attack that was run."""
    desk.house.put("robust", "nap", "pgd", HITS, hashed=desk.hashed, flags=("zero_gradient", "nan"))
    write_cells(desk.house.suite, desk.house.paths)


def failed(desk: Desk, folder: Path) -> None:
    changes = {"state": "failed", "reason": "memory", "value": None, "outcome": None}
    numbers(**changes)(desk, folder)


def sent_before(desk: Desk, folder: Path) -> None:
    """The tree has the same outcomes as another defense."""
    first = desk.put_in_place(folder).rename(desk.house.paths.submissions / "first")
    of("older")(desk, first)


BAD: dict[str, tuple[str, Rule | None, Damage, str]] = {
    "unknown key": ("result", None, edit(licences="x"), "unknown key 'licences'; did you mean 'licence'"),
    "wrong type": ("result", None, edit(rechecked="perhaps"), "rechecked: .*given: 'perhaps'"),
    "damaged record": ("result", None, damaged, "line 2 is damaged .* pack it again"),
    "no records": ("result", None, text("records.jsonl", ""), "there are no records"),
    "no kind": ("result", form.kind_is_given, edit(kind=""), "kind: say defense, result or evaluation"),
    "name": (
        "result",
        form.name_is_an_id,
        lambda _, folder: folder.rename(folder.with_name("A-1")),
        "name 'A-1' must be",
    ),
    "track": ("result", form.track_is_known, edit(track="robus"), "unknown track 'robus'; did you mean 'robust'"),
    "no such row": ("result", form.row_fits_the_kind, of("nap2"), "unknown defense 'nap2'; did you mean 'nap'"),
    "no id of a defense": ("defense", form.row_fits_the_kind, of("nap-2"), "'nap-2' must be an id that the track does"),
    "attack in a result": ("result", form.attack_fits_the_kind, edit(attack="x"), "belong to an evaluation only"),
    "attack with an old id": (
        "evaluation",
        form.attack_fits_the_kind,
        renamed_attack,
        "'replay' must be an id that the",
    ),
    "against nothing": ("evaluation", form.attack_fits_the_kind, edit(against="pgdd"), "did you mean 'pgd'"),
    "no authors": ("result", form.authors_are_named, edit(authors=[]), "authors and contact"),
    "no licence": ("result", form.licence_is_given, edit(licence=""), "licence: name the licence"),
    "secret": ("result", form.content_may_be_passed_on, edit(redistribution=False), "redistribution: must be true"),
    "no code": ("defense", form.code_is_referred_to, edit(code=REFERENCE | {"url": ""}), r"code\.url"),
    "no attack code": ("evaluation", form.code_is_referred_to, without_images, r"code\.(url|sha256|licence)"),
    "no hash": ("defense", form.weights_are_referred_to, edit(weights=REFERENCE | {"sha256": "1"}), r"weights\.sha256"),
    "no licence of weights": (
        *("defense", form.weights_are_referred_to, edit(weights=REFERENCE | {"licence": ""}), r"weights\.licence"),
    ),
    "old protocol": ("result", form.protocol_is_the_suites, edit(protocol=2), "the suite has version 3, not 2"),
    "file too many": ("result", form.files_are_listed, unlisted, r"more\.png is not listed"),
    "file too few": ("result", form.files_are_listed, unwritten, r"gone\.png is not in the folder"),
    "link": ("result", form.files_are_listed, link, r"README\.md is a link"),
    "changed file": ("result", form.files_have_their_hash, edit(files={"records.jsonl": SHA}), r"has another hash"),
    "lossy image": ("result", form.files_are_lossless, jpeg, r"image\.jpg is a lossy image"),
    "pickle": ("result", form.files_are_lossless, text("w.pt", "x"), r"w\.pt is of a kind"),
    "too large": ("result", form.folder_is_small, heavy, r"the folder has 21\.0 MiB"),
    "another defense": ("result", cells.records_are_of_the_row, moved(defense="fresh"), "is of the defense 'fresh'"),
    "another seed": ("result", cells.records_are_of_the_row, moved(seed=7), "the track has no seed 7"),
    "another attack": ("result", cells.records_are_of_the_row, other_attack, "is not one of clean, pgd, autoattack"),
    "threat model": (
        "result",
        cells.threat_model_is_told,
        moved(threat_model="grey_box"),
        "is white_box, not grey_box",
    ),
    "no attacker": ("evaluation", cells.threat_model_is_told, moved(threat_model="none"), "names its threat model"),
    "quick look": ("result", cells.all_images_were_used, moved(limit=8), "was made with --limit 8"),
    "cell twice": ("result", cells.each_cell_comes_once, lines(lambda all_: [*all_, all_[-1]]), "comes 2 times"),
    "split left out": (
        "defense",
        cells.nothing_is_left_out,
        lines(lambda all_: all_[:-1]),
        r"digits\.test\.seed1 is left",
    ),
    "half precision": ("result", cells.protocol_was_followed, known(dtype="float16"), r"another protocol \(dtype\)"),
    "no control": ("result", cells.control_is_there, no_control, "lack the undefended control"),
    "other images": ("result", cells.sample_is_the_protocols, change(out_of_order), r"not the control's \(rows\)"),
    "fewer images": ("result", cells.sample_is_the_protocols, known(images=8), r"not the control's \(size\)"),
    "no outcomes": ("result", cells.sample_is_the_protocols, numbers(outcome=None), "no outcome for each image"),
    "miscount": ("result", cells.numbers_are_recounted, numbers(hits=4), "the outcomes give 3 of 8, not 4 of 8"),
    "another value": ("result", cells.numbers_are_recounted, numbers(value=38.5), r"not 3 of 8 \(38\.5 %\)"),
    "state with a value": ("result", cells.numbers_are_recounted, numbers(state="failed"), "needs a reason"),
    "another interval": ("result", cells.intervals_are_recomputed, numbers(low=30.0), "the interval of the outcomes"),
    "another model": ("result", cells.model_and_images_are_the_suites, known(checkpoint="x"), "the checkpoint is not"),
    "other data": ("result", cells.model_and_images_are_the_suites, known(manifest="x"), "the manifest is not"),
    "weaker attack": ("defense", cells.attack_is_the_suites, known(attack="x"), "attack differs from what the control"),
    "other options": ("result", cells.attack_is_the_suites, known(attack_options={"eps": 4}), "attack_options differs"),
    "another artefact": ("result", cells.artefact_is_one, known(artefact="x"), "is of another artefact"),
    "two artefacts": ("defense", cells.artefact_is_one, known(artefact="x"), "is of another artefact"),
    "flags not told": ("result", claims.flags_are_complete, numbers(flags=("nan",)), r"the records have \['nan'\]"),
    "vanished flag": ("evaluation", claims.flags_are_complete, lost_flag, "lacks zero_gradient, found in this model"),
    "moved score": (
        "result",
        claims.old_scores_stay,
        known_cell("11110000"),
        r"moves from 37\.5000 to 50\.0; give the",
    ),
    "reason for nothing": (
        "result",
        claims.moved_has_reasons,
        edit(moved={"x": "why"}),
        r"moved: x must name a record",
    ),
    "known result": ("result", claims.nothing_is_known_already, known_cell(HITS), "is in the boards already"),
    "copy": ("defense", claims.nothing_is_known_already, sent_before, "'first' holds the same outcomes"),
    "no number": ("evaluation", claims.evaluation_is_stronger, failed, "is failed; a stronger|nothing is lowered"),
    "not stronger": ("evaluation", claims.evaluation_is_stronger, other_hits("11110000"), "nothing is lowered"),
    "large eps": (
        "evaluation",
        claims.eps_is_the_rows,
        known(attack_options={"eps": 9}),
        "eps is 9; it must be .* up to 8",
    ),
    "no eps": ("evaluation", claims.eps_is_the_rows, known(attack_options={}), "eps is None; it must be .* up to 8"),
    "images of nothing": (
        "evaluation",
        images.images_belong_to_records,
        edit(images={"x": STORED}),
        "images: .* must name",
    ),
    "unlisted images": ("evaluation", images.images_belong_to_records, elsewhere, "is not among the listed files"),
    "other type": (
        "evaluation",
        images.images_can_be_read,
        pixels(lambda all_: all_.astype(float)),
        "must be uint8 or",
    ),
    "out of range": (
        "evaluation",
        images.images_can_be_read,
        pixels(lambda all_: all_.astype("f4")),
        r"must lie in \[0,1\]",
    ),
    "JPEG called PNG": ("evaluation", images.images_can_be_read, disguised, "the content is no PNG"),
    "bfloat16": ("evaluation", images.images_can_be_read, bfloat16, "is no safetensors file of uint8 or float32"),
    "no safetensors": ("evaluation", images.images_can_be_read, text(STORED, "x"), "is no safetensors file"),
    "PNG left out": ("evaluation", images.images_can_be_read, one_png_less, "must hold one PNG for each image"),
    "outside eps": (
        "evaluation",
        images.images_are_within_eps,
        pixels(one_too_far),
        r"1 images leave .* row 5 by .* 9\.000/255",
    ),
    "no clean images": (
        "evaluation",
        images.images_are_within_eps,
        no_data,
        "eps cannot be verified: .*bench fetch shapes",
    ),
}


@pytest.mark.parametrize("kind", ["defense", "result", "evaluation"])
def test_a_good_submission_is_accepted(desk, kind):
    assert desk.check(getattr(desk, kind)()) == []


def test_an_attack_may_be_referred_to_instead_of_images(desk):
    folder = desk.evaluation()
    without_images(desk, folder)
    desk.edit(folder, code=REFERENCE)
    assert desk.check(folder) == []


def test_images_may_be_png(desk):
    folder = desk.evaluation()
    pngs(desk, folder)
    assert desk.check(folder) == []


def test_images_may_be_float32_and_touch_the_bound(desk):
    folder = desk.evaluation()
    clean = desk.pixels.astype(np.float32) / 255
    desk.images(folder, clean + np.float32(8 / 255))
    assert desk.check(folder) == []
    desk.images(folder, clean + np.float32(8.01 / 255))
    (fault,) = desk.check(folder)
    assert "8 images leave the ball" in fault


def test_images_that_a_maintainer_has_seen_need_no_data(desk):
    folder = desk.evaluation()
    desk.edit(folder, rechecked=True)
    no_data(desk, folder)
    assert desk.check(folder) == []


def test_a_score_may_move_for_a_reason(desk):
    folder = desk.result()
    known_cell("11110000")(desk, folder)
    desk.edit(folder, moved={f"nap.autoattack.{CELL}": "the first run had stopped early"})
    assert desk.check(folder) == []


@pytest.mark.parametrize("case", BAD)
def test_a_bad_submission_is_refused_by_the_rule_that_it_breaks(desk, case):
    kind, broken, damage, reason = BAD[case]
    folder = getattr(desk, kind)()
    folder = damage(desk, folder) or folder
    submission = read_submission(folder)
    board = board_for(desk.house.suite, desk.house.paths, submission.name)
    refusals = {rule: list(rule(submission, board)) for rule in RULES}
    refusals[None] = submission.faults
    assert [rule for rule, faults in refusals.items() if faults] == [broken]
    assert all(re.search(reason, fault) for fault in refusals[broken]), refusals[broken]
    assert desk.check(folder) == refusals[broken]


def test_every_rule_refuses_something():
    assert {rule for _, rule, _, _ in BAD.values()} == {None, *RULES}


def test_five_faults_are_told_at_once(desk):
    folder = desk.evaluation()
    desk.edit(folder, licence="", colour="red", contact="")
    desk.change(folder, lambda old: old.model_copy(update={"low": 1.0}))
    desk.images(folder, one_too_far(desk.pixels))
    faults = desk.check(folder)
    assert len(faults) == 5
    for reason in ("unknown key 'colour'", "licence", "authors and contact", "the interval", "leave the ball"):
        assert any(reason in fault for fault in faults)


@pytest.mark.parametrize("content", ["", "- a list", "kind: [", None])
def test_a_description_that_cannot_be_read_is_the_only_fault(desk, content):
    folder = desk.result()
    (folder / "submission.yaml").unlink()
    if content is not None:
        (folder / "submission.yaml").write_text(content)
    (fault,) = desk.check(folder)
    assert fault.startswith("submission.yaml ")
