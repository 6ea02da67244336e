"""Twelve of the odd names of the campaign: the right files and labels, or one clear line and nothing written."""

from pathlib import Path

import pytest

from tests.campaigns import names
from tests.campaigns.commands import Ended, run
from tests.campaigns.layout_cases import classes
from tests.campaigns.names import Attempts, Home

USED = ("1.10", "1.1")
REFUSED = ("12:30", "..", "../x", "--help", "-1", "a\nb", "[red]", "${seed}", "$(touch x)", "a=b")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_odd_names_are_text_in_every_verb_that_needs_no_server(home: Home) -> None:
    attempts = [names.learn(home, name, number) for number, name in enumerate(USED)]
    assert [each.fault for each in attempts] == ["", ""]
    assert all(tuple(each.right) == names.OFFLINE for each in attempts)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_name_is_refused_in_one_line_by_every_verb(name: str, home: Home) -> None:
    classes(home.folder / "raw-refused", 4)
    attempts = names.refuse(home, name)
    assert attempts.fault == "" and len(attempts.right) >= len(names.VERBS) + len(names.COMMANDS) - 1


@pytest.mark.parametrize(
    ("done", "written", "fault"),
    [
        (Ended(0, "done", ""), False, "not refused: done"),
        (Ended(2, "", "usage: verify\nerror: unrecognized arguments: -a\n"), False, "not one line"),
        (Ended(1, "", "Traceback\n"), False, "not one line"),
        (Ended(1, "", "error: no\n"), True, "wrote /a"),
        (Ended(1, "", "error: no\n"), False, ""),
    ],
)
def test_the_check_sees_a_wrong_refusal(done: Ended, written: bool, fault: str) -> None:
    seen = names.refusal_fault(done, {Path("/a")} if written else set())
    assert seen.startswith(fault) and bool(seen) == bool(fault)


@pytest.mark.parametrize(
    ("code", "written", "fault"),
    [
        (1, "data/processed/1.10/dataset.json", "data: exit 1"),
        (0, "data/processed/1.1/dataset.json", "data: wrote "),
        (0, "data/processed/1.10/images.npy", "data: did not write "),
        (0, "data/processed/1.10/dataset.json", ""),
    ],
)
def test_the_check_sees_another_names_files(
    code: int, written: str, fault: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verb(*_: object) -> Ended:
        path = home.folder / written
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        return Ended(code, "", "")

    monkeypatch.setattr(home, "verb", verb)
    attempts = Attempts(home, "1.10", "raw")
    attempts.run("data")
    assert attempts.fault.startswith(fault) and bool(attempts.fault) == bool(fault)


def test_a_command_in_this_process_is_as_in_a_shell(tmp_path: Path) -> None:
    done = run("serving.verify", ["../x"], tmp_path)
    assert done.code == 1 and done.output == "" and done.error.startswith("error: '../x' cannot name a model")
    done = run("serving.verify", ["--help"], tmp_path)
    assert done.code == 0 and "usage: " in done.output
    assert run("training.evaluate", ["name=a"], tmp_path).error.startswith("error: runs/a/config.yaml does not exist")
