"""What `make up` says at its end of the network that it has trained."""

import json
from pathlib import Path

import pytest

from pipeline import up


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"epochs": 8, "wanted_epochs": 18}, ", after 8 of 18 epochs: what the time was enough for"),
        ({"epochs": 18, "wanted_epochs": 18}, ""),
        ({"epochs": 8}, ""),  # of an older run
    ],
)
def test_training_that_was_cut_short_is_told(tmp_path: Path, trained: dict[str, int], said: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(trained))
    found = up._worth(tmp_path, {"images": 1200, "top_1": {"value": 0.9583}})
    assert found == f"of 1,200 test images 95.8%{said}"
