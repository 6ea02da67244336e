"""Tables of verbs: whole lines in a pipe or a file, and the width of a terminal there."""

from types import ModuleType

import pytest
from rich.table import Table

from serving import console as serving_console
from training import console as training_console

NAME = "a-folder-with-a-long-name/" * 8


@pytest.mark.parametrize("module", [serving_console, training_console])
def test_only_a_terminal_wraps_a_table(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("image", title="who")
    table.add_row(NAME)
    for terminal in (False, True):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        module.table_console().print(table)
        assert (NAME in capsys.readouterr().out) is not terminal
