"""The benchmark of interleavings: which versions may be live after two commands, and what a step is."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.campaigns import stepped
from tests.campaigns.interleavings import Command, allowed


def command(verb: str, version: str, *, output: str = "", killed: bool = False, name: str = "bees") -> Command:
    process = cast(Any, SimpleNamespace(returncode=0))
    return Command(verb, name, version, "stop", 0, Path("log"), process, killed, output)


@pytest.mark.parametrize(
    ("commands", "versions"),
    [
        ([command("serve", "2.0"), command("watch", "2.0", killed=True)], {"1.0"}),
        ([command("deploy", "2.0", output="commit ...\nbees 2.0 is live; the switch took 1 ms.")], {"2.0"}),
        ([command("deploy", "2.0", output="error: bees 2.0 is not deployed")], {"1.0"}),
        ([command("deploy", "2.0", killed=True)], {"1.0", "2.0"}),
        ([command("deploy", "2.0", output="bees 2.0 is live;"), command("up", "1.0", killed=True)], {"1.0", "2.0"}),
        ([command("rollback", "1.0", output="bees 2.0 is live;"), command("deploy", "3.0")], {"2.0"}),
        ([command("deploy", "2.0", output="ants 2.0 is live;", name="ants")], {"1.0"}),
    ],
)
def test_what_was_said_to_be_live_is_and_what_was_killed_may_be(commands: list[Command], versions: set[str]) -> None:
    assert allowed("bees", "1.0", commands) == versions


@pytest.mark.parametrize(("how", "code"), [("kill", -9), ("stop", 0)])
def test_a_program_ends_before_its_step_and_its_steps_are_known(tmp_path: Path, how: str, code: int) -> None:
    (tmp_path / "two.py").write_text("import os\nopen('a', 'w').close()\nos.replace('a', 'b')\nos.replace('b', 'c')\n")
    number = "2" if how == "kill" else "0"
    words = [sys.executable, "-m", "tests.campaigns.stepped", how, number, "steps", "two"]
    environment = {"PYTHONPATH": f"{Path(stepped.__file__).parents[2]}:{tmp_path}"}
    assert subprocess.run(words, cwd=tmp_path, env=environment, check=False).returncode == code
    assert stepped.steps(tmp_path / "steps") == ["replace", "replace"]
    assert (tmp_path / ("b" if how == "kill" else "c")).exists()
