"""Ctrl-C in a command of training: one line that says what to do, the status of an interrupt, and nothing lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.unit.tinted_store import TINY, tinted_store
from training import crossvalidate, prune, rerun
from training.console import INTERRUPTED
from training.interrupts import Interrupts

REPOSITORY = Path(__file__).parents[2]


def test_training_keeps_its_whole_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tinted_store(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "training.train", *TINY, "name=interrupted", "trainer.epochs=200"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it would not heed it
    ) as process:  # fmt: skip
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch   2/200"))
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert error.splitlines()[-1] == INTERRUPTED
    assert Path("runs/interrupted/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("module", "work", "arguments"),
    [(crossvalidate, "run", ["dataset=fingers"]), (prune, "prune", ["hands"]), (rerun, "rerun", ["hands"])],
)
def test_commands_that_train_say_so_too(
    module: ModuleType, work: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, work, interrupted)
    assert module.main(arguments) == 130 and capsys.readouterr().err == f"{INTERRUPTED}\n"


def _interrupted_twice(interrupts: Interrupts) -> None:
    interrupts.on_train_batch_end()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.on_train_batch_end()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_first_interrupt_waits_for_the_batch_and_the_second_does_not() -> None:
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.heeded():  # here, one after the last batch
            _interrupted_twice(interrupts)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Interrupts().heeded():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "as a background job of a shell has it"
    finally:
        signal.signal(signal.SIGINT, before)
