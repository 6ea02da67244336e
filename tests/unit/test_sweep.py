from pathlib import Path

from benchmarks import sweep
from benchmarks.sweep import Setting
from serving import model_config
from serving.shares import Shares

CONFIG = (Path(__file__).parents[2] / "config.properties").read_text()


def last(text: str, key: str) -> str:
    """Return what the last line of a key says, which is what TorchServe heeds."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")][-1]


def test_every_setting_changes_one_thing_and_is_one_that_archives_know() -> None:
    compared = sweep.settings(4)
    assert compared[0] == Setting("as served") and len({each.title for each in compared}) == len(compared) > 10
    for each in compared[1:]:
        assert sum(map(bool, (each.archive, each.config, each.java))) == 1
        model_config.configure(each.archive)
    assert any(each.archive == ("minWorkers=1",) and "4 threads" in each.title for each in compared)
    assert not any(each.archive == ("minWorkers=1",) for each in sweep.settings(1))


def test_options_of_java_come_after_those_that_are_served_with() -> None:
    text = sweep.config_of(CONFIG, Setting("x", java="-XX:+UseSerialGC"))
    whole = last(text + Shares.of_this_machine(1).properties(text), "vmargs")
    assert whole.startswith(last(CONFIG, "vmargs")) and whole.endswith("-XX:+UseSerialGC")
    assert Shares.of_this_machine(1).java in whole


def test_lines_of_the_configuration_are_added() -> None:
    text = sweep.config_of(CONFIG, Setting("x", config=("netty_client_threads=1",)))
    assert last(text, "netty_client_threads") == "1" and text.startswith(CONFIG)
