"""Verbs that make what a suite is made of: data, models, defenses, and the evaluations of them."""

from itertools import chain, product
from typing import Annotated

import typer

from bench.commands.common import (
    SuiteOption,
    chosen,
    open_suite,
    print_records,
    refuse_unknown,
    track_of,
    training_may_diverge,
)
from bench.errors import UserError
from bench.lvlm.architecture import lvlm_architectures
from bench.lvlm.libraries import check_libraries
from bench.lvlm.room import is_lvlm, is_lvlm_track
from bench.paths import DEFAULT_SUITE
from bench.progress import console


def fetch(
    dataset: Annotated[str, typer.Argument(help="A dataset, or `all`.")],
    suite: SuiteOption = DEFAULT_SUITE,
    mirror: Annotated[
        str, typer.Option(envvar="BENCH_MIRROR", help="Server or folder with <dataset>/<file>, asked first.")
    ] = "",
    options: Annotated[str, typer.Option(help="Options as YAML, over those of the suite: '{size: 336}'.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be downloaded, and from where.")
    ] = False,
) -> None:
    """Get a dataset: its images and its manifest."""
    from bench.datasets.archives.orders import fetch_orders, orders_of
    from bench.datasets.archives.plan import show_plan

    paths, loaded = open_suite(suite)
    orders = orders_of(dataset, loaded, options, str(suite))
    if dry_run:
        show_plan(orders, paths.data, mirror)
        return
    for name, manifest in fetch_orders(orders, paths.data, mirror):
        sizes = ", ".join(f"{split} {entry.count}" for split, entry in manifest.splits.items())
        console.print(f"{name}: {sizes}")


def pretrain(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Train a small model from scratch, such as those that ship with the package."""
    paths, loaded = open_suite(suite)
    refuse_unknown("pretraining", name, loaded.pretraining)
    spec, where = loaded.pretraining[name], f"{suite}: pretraining.{name}"
    if spec.architecture in lvlm_architectures():
        check_libraries()
        from bench.lvlm.pretrain import pretrain_to as pretrain_lvlm

        with training_may_diverge():
            made = pretrain_lvlm(paths.pretrained(name), spec, where)
        kinds = ", ".join(f"{kind} {percent:.1f}" for kind, percent in made.accuracy.items())
        console.print(f"{name}: right answers {kinds}; {paths.pretrained(name)}", highlight=False)
        return
    from bench.clip.pretrain import pretrain_to

    with training_may_diverge():
        card = pretrain_to(paths.pretrained(name), spec, paths.data, where)
    accuracies = ", ".join(f"{dataset} {splits['test']:.1f}" for dataset, splits in card.zero_shot.items() if splits)
    console.print(f"{name}: zero-shot accuracy {accuracies}; {paths.pretrained(name)}", highlight=False)


def steganography(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Train the networks that ISSBA hides its secret with."""
    from bench.backdoors.steganography import SteganographyOptions, make_steganography
    from bench.config import parse

    paths, loaded = open_suite(suite)
    if not loaded.steganography:
        raise UserError(
            f"{suite}: it has no entry 'steganography', which ISSBA's networks are made from; name a suite with --suite"
        )
    options = parse(SteganographyOptions, loaded.steganography, f"{suite}: steganography")
    card = make_steganography(options, paths.data, paths.steganography)
    mean, low, high = card.psnr
    console.print(
        f"steganography: {card.bit_accuracy:.2f} % of bits read, PSNR {mean:.1f} dB ({low:.1f} to {high:.1f})"
    )
    console.print(f"changes that hide the same string are alike by {card.similarity:.2f}")


def checkpoint(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Make a checkpoint: a clean or a backdoored model."""
    from bench.planned import Absent, leave_note

    paths, loaded = open_suite(suite)
    refuse_unknown("checkpoint", name, loaded.checkpoints)
    if lacking := Absent(loaded).checkpoint(name):
        leave_note(paths.checkpoint(name), lacking)
        return
    if is_lvlm(loaded.checkpoints[name]):
        check_libraries()
        from bench.lvlm.plant import make_checkpoint
    else:
        from bench.backdoors.make import make_checkpoint
    with training_may_diverge():
        made = make_checkpoint(name, loaded.checkpoints[name], paths)
    gate = made.card.gate
    if gate is not None:
        verdict = "passed" if gate.passed else "[bold red]attack_failed[/]"
        control = f"on the clean model {gate.clean_asr:.1f} % and {gate.clean_ca:.1f} %"
        console.print(f"{name}: {verdict}; ASR {gate.asr:.1f} %, CA {gate.ca:.1f} %; {control}")


def surrogate(name: str, suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Make a surrogate: a model that transfer attacks work on instead of the attacked one."""
    from bench.surrogates.folder import make_surrogate

    paths, loaded = open_suite(suite)
    refuse_unknown("surrogate", name, loaded.surrogates)
    with training_may_diverge():
        card = make_surrogate(loaded, name, paths)
    console.print(f"{name}: {card.parameters:,} numbers in {paths.surrogate(name)}, made in {card.wall_s:.0f} s")


def attacks(suite: SuiteOption = DEFAULT_SUITE) -> None:
    """Write down what each attack depends on, so that a pipeline runs again what a change touches and no more."""
    from bench.evaluation.adversary import write_attacks

    paths, loaded = open_suite(suite)
    write_attacks(loaded, paths)


def defend(
    track: str,
    defense: Annotated[str, typer.Argument(help="One defense of the track; all of them if not given.")] = "",
    checkpoint: Annotated[str, typer.Argument(help="One checkpoint of the track; all of them if not given.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
) -> None:
    """Tune defenses on checkpoints, for every dataset and seed of the track."""
    paths, loaded = open_suite(suite)
    plan = track_of(loaded, track)
    if is_lvlm_track(loaded, track):
        check_libraries()
        from bench.lvlm.fitting import fit_track
    else:
        from bench.defenses.fitting import fit_track
    defenses = chosen("defense", defense, plan.defenses)
    fit_track(loaded, track, defenses, chosen("checkpoint", checkpoint, plan.checkpoints), paths)


def evaluate(
    track: Annotated[str, typer.Argument(help="A track of the suite.")] = "",
    defense: Annotated[str, typer.Argument(help="One defense of the track; all of them if not given.")] = "",
    attack: Annotated[str, typer.Argument(help="One attack of the track; all of them if not given.")] = "",
    suite: SuiteOption = DEFAULT_SUITE,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many images per cell: a quick look, kept out of all tables.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Instead of a track: FILE.py:FUNCTION that returns a module, images in [0,1] to logits.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="With --model: a fetched dataset.")] = "",
    attacks: Annotated[str, typer.Option(help="With --model: attacks of the suite, joined by commas.")] = "",
    split: Annotated[str, typer.Option(help="With --model: which part of the dataset.")] = "test",
) -> None:
    """Evaluate defenses under attacks on all of their track, or a model of your own under several attacks."""
    paths, loaded = open_suite(suite)
    if model:
        from bench.evaluation.external import evaluate_external

        refuse_unknown("dataset", dataset, loaded.datasets)
        print_records(evaluate_external(loaded, model, dataset, split, attacks.split(","), paths, limit))
        return
    if not track:
        raise UserError(
            "evaluate: give TRACK [DEFENSE] [ATTACK], or --model FILE.py:FUNCTION --dataset ID --attacks ID,ID"
        )
    plan = track_of(loaded, track)
    if is_lvlm_track(loaded, track):
        check_libraries()
        from bench.lvlm.evaluate import evaluate as run
    else:
        from bench.evaluation.run import evaluate as run
    pairs = product(chosen("defense", defense, plan.defenses), chosen("attack", attack, plan.attacks))
    print_records(chain.from_iterable(run(loaded, track, *pair, paths, limit) for pair in pairs))
