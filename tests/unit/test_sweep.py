from pathlib import Path

import pytest

from benchmarks import sweep
from benchmarks.harness.servers import Running
from benchmarks.sweep import Setting
from serving.host.resources import JAVA_VARIABLES, Resources
from serving.store import model_config

CONFIG = (Path(__file__).parents[2] / "config.properties").read_text()


def last(text: str, key: str) -> str:
    """Return what the last line of a key says, which is what TorchServe heeds."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")][-1]


def test_every_setting_changes_one_thing_and_is_one_that_archives_know() -> None:
    compared = sweep.settings(4)
    assert compared[0] == Setting("as served, twice") and len({each.title for each in compared}) == len(compared) > 8
    for each in compared[1:]:
        assert sum(map(bool, (each.archive, each.config, each.java))) == 1
        model_config.configure(each.archive)
    assert any(each.archive == ("minWorkers=1",) and "4 threads" in each.title for each in compared)
    assert not any(each.archive == ("minWorkers=1",) for each in sweep.settings(1))


@pytest.mark.parametrize("option", [each.java for each in sweep.settings(2) if each.java])
def test_an_option_of_java_stands_in_the_place_of_the_one_that_is_served_with(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in JAVA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    text = sweep.config_of(CONFIG, Setting("x", java=option))
    shares = Resources(workers=2, threads=1, heap=700)
    whole = last(text + shares.properties(text), "vmargs").split()
    assert " ".join(whole).startswith(f"{last(CONFIG, 'vmargs')} {option} -Xmx700m")
    assert len([each for each in whole if each.endswith("GC")]) == 1
    assert len([each for each in whole if "TieredStopAtLevel" in each]) == 1


def test_lines_of_the_configuration_are_added() -> None:
    text = sweep.config_of(CONFIG, Setting("x", config=("netty_client_threads=1",)))
    assert last(text, "netty_client_threads") == "1" and text.startswith(CONFIG)


def test_both_servers_take_turns_and_a_pair_is_that_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def rate(_: sweep.Sweep, running: Running, load: str) -> float:
        asked.append(running.url)
        return len(asked) + (100 if running.url == "other" else 0)

    monkeypatch.setattr(sweep.Sweep, "rate", rate)
    compared = sweep.Sweep(Path("run"), "fp32", 1.0, 2, 0)
    found = compared.pairs(Running("usual", {}), Running("other", {}))
    assert asked == ["other", "usual", "usual", "other"] * len(sweep.LOADS)
    assert list(found) == list(sweep.LOADS) and found["1"] == [(2, 101), (3, 104)]
