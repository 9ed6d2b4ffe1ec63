import pytest

from bench.errors import UserError
from bench.lvlm import libraries


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "peft" else name)
    with pytest.raises(UserError, match=r"not installed \(peft\).*\[lvlm\]"):
        libraries.check_libraries()
