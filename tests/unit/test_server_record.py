"""What a start writes down as live, beside a deployment that is made while it loads the rest."""

from pathlib import Path

import pytest

from serving import model_store, server
from serving.live import Live, LiveModel

BEFORE = Live({"a": LiveModel("2.0", "1.0"), "b": LiveModel("1.0")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / model_store.FOLDER).mkdir()
    BEFORE.write(tmp_path)
    return tmp_path


def test_what_a_start_found_different_is_written_down(root: Path) -> None:
    server._remember(Live({"a": LiveModel("2.0"), "b": LiveModel("1.0")}), root, unless=BEFORE)
    assert Live.read(root).models == {"a": LiveModel("2.0"), "b": LiveModel("1.0")}


def test_what_was_deployed_meanwhile_stays(root: Path) -> None:
    deployed = LiveModel("3.0", "2.0")
    BEFORE.of("a", deployed).of("c", LiveModel("1.0")).write(root)
    server._remember(Live({"a": LiveModel("2.0"), "b": LiveModel("1.0")}), root, unless=BEFORE)
    assert Live.read(root).models == {"a": deployed, "b": LiveModel("1.0"), "c": LiveModel("1.0")}
