"""Tables of verbs: whole lines in a pipe or a file, and the width of a terminal there."""

from types import ModuleType

import pytest
from rich.table import Table

from serving import page as serving_page
from training import page as training_page

NAME = "a-folder-with-a-long-name/" * 8


@pytest.mark.parametrize("module", [serving_page, training_page])
def test_only_a_terminal_wraps_a_table(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("image", title="who")
    table.add_row(NAME)
    for terminal in (False, True):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        module.page().print(table)
        assert (NAME in capsys.readouterr().out) is not terminal
