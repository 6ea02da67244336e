"""Which folders train and which judge, by their names only."""

from pathlib import Path

import pytest

from training.data.readers import sides


@pytest.mark.parametrize(
    ("folders", "kinds"),
    [
        (["test", "train"], {"train": "train", "test": "test"}),
        # Names with fewer words of their own win, and an exact name wins over one that resembles it.
        (["old train", "old test", "train", "test"], {"train": "train", "test": "test"}),
        (["train", "test", "images to test", "train data"], {"train": "train", "test": "test"}),
        (["train data", "images to test"], {"train data": "train", "images to test": "test"}),
        # Two words of sides say none.
        (["train test", "bus"], {}),
        (["test", "valid"], {}),
        (["train station", "bus station"], {}),
        (["train station", "test station"], {"train station": "train", "test station": "test"}),
    ],
)
def test_sides_are_known_by_their_names(folders: list[str], kinds: dict[str, str]) -> None:
    found = sides.find(folders)
    assert found == kinds and list(found)[:1] == [name for name, kind in kinds.items() if kind == "train"]


@pytest.mark.parametrize(
    ("beside", "inner"), [(None, "seg_train/Seg_Train"), ("1.jpg", "seg_train"), ("x/", "seg_train")]
)
def test_a_nested_side_is_entered_only_if_nothing_is_beside_it(beside: str | None, inner: str, tmp_path: Path) -> None:
    (tmp_path / "seg_train" / "Seg_Train").mkdir(parents=True)
    if beside is not None:
        path = tmp_path / "seg_train" / beside
        path.mkdir() if beside.endswith("/") else path.write_text("")
    assert sides.innermost(tmp_path, "seg_train") == inner
