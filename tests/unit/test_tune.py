"""`make tune`: trials of one search, from its first one or from those of a killed process."""

import datetime as dt
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.run_folder import RunFolder
from tests.unit.tinted_store import TINY, tinted_store
from tests.until import until
from training import tune as command
from training.configuration import ConfigurationError, compose
from training.search import study
from training.search.space import Setting, Space, overrides
from training.tune import INSTALL, main, tune

pytestmark = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason=f"optuna is missing: {INSTALL}")

REPOSITORY = Path(__file__).parents[2]
BASE = [item for item in TINY if not item.startswith("trainer.epochs")] + ["trainer.epochs=4"]
SPACE = "trainer.lr: {low: 1.0e-6, high: 0.3, log: true}\ntrainer.label_smoothing: {choices: [0.0, 0.1]}\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("tune"))


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    Path("space.yaml").write_text(SPACE)


def search(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path("runs") / name / "search.json").read_text())
    return document


def test_a_search_finds_settings_that_learn_and_prunes_those_that_do_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "FIRST_TRIALS", 1)
    assert main([*BASE, "--name=found", "--trials=8", "--space=space.yaml"]) == 0
    document = search("found")
    trials = document["trials"]
    assert len(trials) == 8 and {trial["state"] for trial in trials} == {"complete", "pruned"}
    assert trials[0]["params"] == {"trainer.lr": 0.05, "trainer.label_smoothing": 0.1}, (
        "the configuration's own come first"
    )
    best = min((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: float(trial["value"]))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(".venv/bin/python -m training.train dataset=class_folders ") and last == document["command"]
    assert all(override in last for override in overrides(best["params"]))
    compose([*BASE, *overrides(best["params"])])
    page = (Path("runs") / "found" / "search.html").read_text()
    assert page.count("data:image/png") == 4 and "http" not in page.split("base64")[0]
    kept = [path.name for path in Path("runs/found").glob("trial-*")]
    assert kept == [f"trial-{best['number']}"], "only the best run stays"
    assert RunFolder(Path("runs/found") / kept[0]).model.is_file()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_goes_on_and_tries_the_interrupted_settings_again(number: signal.Signals) -> None:
    base = [*BASE[:-1], "trainer.epochs=30"]
    arguments = [*base, "--name=killed", "--trials=3", "--space=space.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-m", "training.tune", *arguments], env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it would not heed it
    ) as process:  # fmt: skip
        until(lambda: list(Path("runs/killed").glob("trial-*/metrics.csv")), 120)
        process.send_signal(number)
    tune("killed", base, 1, space=Path("space.yaml"))
    states = [(trial["state"], trial["params"]) for trial in search("killed")["trials"]]
    assert [state for state, _ in states] == ["fail", "complete"]
    assert states[0][1] == states[1][1], "the interrupted trial's own settings"
    with pytest.raises(ConfigurationError, match="holds a search with other settings \\("):
        tune("killed", BASE, 2, space=Path("space.yaml"))
    Path("space.yaml").write_text(SPACE.replace("0.3", "0.4"))
    with pytest.raises(ConfigurationError, match="holds a search with another space: go on"):
        tune("killed", base, 2, space=Path("space.yaml"))


def test_a_trial_of_another_machine_is_left_to_it_until_none_works_there() -> None:
    identity = {"space": {}, "settings": [], "data set": ""}
    trials = study.opened(Path("runs/elsewhere"), identity, 0)
    trial = trials.ask()
    trial.set_user_attr(study.PROCESS, [1, 0, "another-machine"])
    states = []
    for elsewhere in (False, True):
        study.end_trials_of_killed_processes(trials, elsewhere=elsewhere)
        states.append(trials.get_trials(deepcopy=False)[0].state.name)
    assert states == ["RUNNING", "FAIL"]


def test_a_trial_that_another_process_has_just_begun_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = study.opened(Path("runs/begun"), {"space": {}, "settings": [], "data set": ""}, 0)
    trials.ask()
    study.end_trials_of_killed_processes(trials)
    assert trials.get_trials(deepcopy=False)[0].state.name == "RUNNING"
    monkeypatch.setattr(study, "BEGINNING", dt.timedelta(0))  # it was killed before it had written its process
    study.end_trials_of_killed_processes(trials)
    assert trials.get_trials(deepcopy=False)[0].state.name == "FAIL"


@pytest.mark.slow
def test_several_processes_share_one_search() -> None:
    assert main([*BASE, "--name=shared", "--trials=4", "--processes=2", "--space=space.yaml"]) == 0
    assert 4 <= len(search("shared")["trials"]) <= 5
    assert len({json.dumps(trial["params"]) for trial in search("shared")["trials"]}) >= 4


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(*arguments: str) -> str:
        assert main([*BASE, "--trials=1", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    Path("empty.yaml").write_text("")
    Path("wrong.yaml").write_text("trainer.lr: {low: 3, high: 1}\n")
    Path("unknown.yaml").write_text("trainer.rate: {low: 1, high: 3}\n")
    assert "names no setting" in refusal("--name=a", "--space=empty.yaml")
    assert "Write {low: 0.1, high: 1.0}" in refusal("--name=a", "--space=wrong.yaml")
    assert "trainer.rate" in refusal("--name=b", "--space=unknown.yaml")
    assert "is set and searched" in refusal("--name=a", "--space=space.yaml", "trainer.lr=0.1")
    assert "no prepared data set" in refusal("--name=a", "store=nothing")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert INSTALL in refusal("--name=a")


@pytest.mark.parametrize("network", ["efficientnet_lite0", "resnet18d_half"])
def test_each_space_of_the_configuration_fits_its_network(network: str) -> None:
    config = compose(["dataset=petals", f"network={network}"])
    space = Space.of(config)
    assert len(space.defaults(config)) >= len(space.settings) - 2
    ends = [
        (setting.name, value) for setting in space.settings for value in setting.choices or (setting.low, setting.high)
    ]
    for name, value in ends:
        compose(["dataset=petals", f"network={network}", *overrides({name: value})])


def test_whole_numbers_and_choices_are_allowed_only_in_their_range() -> None:
    whole, choice = Setting("a", 1, 3), Setting("b", choices=(True, False))
    assert whole.allows(3) and not whole.allows(4) and not whole.allows(None)
    assert choice.allows(True) and not choice.allows("yes")
    assert overrides({"b": True, "a": 2}) == ["b=true", "a=2"]
