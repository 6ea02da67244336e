"""The settings of an archive: overrides that its model-config.yaml holds, and those that are refused."""

import dataclasses

import pytest

from handlers.settings import Settings
from serving.store.model_config import DEFAULTS, configure
from serving.store.model_store import ArchiveError


def test_without_overrides_the_server_chooses_the_number_of_workers() -> None:
    assert configure(()) == {name: value for name, value in DEFAULTS.items() if value is not None}
    assert not {"minWorkers", "maxWorkers"} & configure(()).keys()


def test_overrides_change_one_archive() -> None:
    settings = configure(["batchSize=4", "handler.top_k=2", "handler.precision=bf16"])
    assert settings["batchSize"] == 4
    assert settings["handler"] == {**DEFAULTS["handler"], "top_k": 2, "precision": "bf16"}
    assert DEFAULTS["handler"] == dataclasses.asdict(Settings()), "the defaults are as before"


@pytest.mark.parametrize(
    ("overrides", "max_workers"),
    [(["minWorkers=2"], 2), (["minWorkers=2", "maxWorkers=1"], 2), (["minWorkers=2", "maxWorkers=3"], 3)],
)
def test_min_workers_comes_with_max_workers(overrides: list[str], max_workers: int) -> None:
    settings = configure(overrides)
    assert (settings["minWorkers"], settings["maxWorkers"]) == (2, max_workers)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=4", r"'batchsize' is not a setting of an archive: use minWorkers, .*handler\.top_k"),
        ("handler=4", "'handler' is not a setting"),
        ("handler.handler=4", r"'handler\.handler' is not a setting"),
        ("top_k=4", "'top_k' is not a setting"),
        ("batchSize", "'batchSize': the value must be a whole number, 0 or more"),
        ("batchSize=-1", "'batchSize=-1': the value must be a whole number, 0 or more"),
        ("handler.precision=int4", "precision is 'int4'"),
    ],
)
def test_a_wrong_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        configure([override])
