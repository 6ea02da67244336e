import os
from pathlib import Path

import pytest

from handlers import machine


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("150000 100000\n", 2), ("50000 100000", 1), ("max 100000", 8), ("9900000 100000", 8), ("", 8)],
)
def test_a_containers_quota_bounds_the_cores(
    tmp_path: Path, quota: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert machine.cores(tmp_path) == expected
    assert machine.cores(tmp_path / "none") == 8


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("1", 1), ("0", 8), ("-1", 8)])
def test_the_older_files_do_too(tmp_path: Path, quota: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cores(tmp_path) == expected


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_containers_limit_bounds_the_memory(tmp_path: Path, name: str) -> None:
    whole = machine.memory(tmp_path)
    assert whole > 2**28
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for text, expected in (("268435456\n", 2**28), ("max", whole), (str(2**62), whole)):
        (tmp_path / name).write_text(text)
        assert machine.memory(tmp_path) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(
    before: dict[str, str], after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(before))
    machine.share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == after
