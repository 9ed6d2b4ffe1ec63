"""Work side by side: order, faults, threads, and how many processes there are."""

import os
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.processes import VARIABLE, processes, side_by_side, threads


def _where(item: int) -> tuple[int, int, int]:
    return item, os.getpid(), torch.get_num_threads()


def _faulty(item: int) -> int:
    if item == 2:
        raise UserError(f"item {item}: not this one")
    return item


def test_results_come_in_order_from_other_processes_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "2")
    found = list(side_by_side(_where, range(6)))
    assert [item for item, _, _ in found] == list(range(6))
    assert os.getpid() not in {process for _, process, _ in found}
    assert {count for _, _, count in found} == {1}


def test_one_process_or_one_item_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "2")
    assert [process for _, process, _ in side_by_side(_where, [1])] == [os.getpid()]
    monkeypatch.setenv(VARIABLE, "1")
    assert [process for _, process, _ in side_by_side(_where, [1, 2])] == [os.getpid()] * 2


@pytest.mark.usefixtures("pretend")
def test_processes_beside_an_accelerator_are_asked_for_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes() == 1
    monkeypatch.setenv(VARIABLE, "2")
    given = list[object]()

    def started(count: int, context: Any, **_: object) -> Any:
        given.extend((count, context.get_start_method()))
        raise InterruptedError

    monkeypatch.setattr("bench.processes.ProcessPoolExecutor", started)
    with pytest.raises(InterruptedError):
        list(side_by_side(_where, range(3)))
    assert given == [2, "spawn"]


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_mistake_of_the_user_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv(VARIABLE, count)
    with pytest.raises(UserError, match="item 2: not this one"):
        list(side_by_side(_faulty, range(4)))


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_a_wrong_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(UserError, match=f"BENCH_PROCESSES is '{value}'"):
        processes()


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
