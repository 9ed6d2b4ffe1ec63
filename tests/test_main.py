"""The program ``bench`` leaves quickly, but with the right exit code, all it has printed, and nothing left undone."""

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A process in which ``main`` is replaced by ``code``."""
    program = f"import atexit, sys\nimport bench.__main__ as it\ndef main():\n    {code}\nit.main = main\nit.program()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("code", "expected"), [("return", 0), ("sys.exit()", 0), ("sys.exit(2)", 2), ("1 / 0", 1)])
def test_exit_codes_are_those_of_any_program(code: str, expected: int) -> None:
    assert run(code).returncode == expected


def test_a_program_that_stops_with_words_fails() -> None:
    done = run("sys.exit('no such thing')")
    assert done.returncode == 1
    assert "no such thing" in done.stderr


def test_an_error_of_ours_keeps_its_traceback() -> None:
    assert "ZeroDivisionError" in run("1 / 0").stderr


def test_what_was_printed_arrives_and_what_is_to_be_done_at_the_end_is_done() -> None:
    done = run("print('x' * 100_000, end=''); atexit.register(print, 'cleared up')")
    assert done.stdout == "x" * 100_000 + "cleared up\n"


def test_the_command_line_starts_it() -> None:
    command = [sys.executable, "-m", "bench"]
    assert "Usage" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert subprocess.run([*command, "bogus"], capture_output=True, check=False).returncode == 2
