"""The fixture that the tests of the readers share."""

from pathlib import Path

import pytest


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return an empty folder for raw images."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder
