"""Run commands of this repository in this process, which has already imported torch, with the results of a shell."""

import contextlib
import dataclasses
import os
import runpy
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from benchmarks.result import ROOT


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: its exit code and output."""

    code: int
    output: str
    error: str


def run(module: str, arguments: Sequence[str], folder: Path) -> Ended:
    """Run `python -m module arguments` in a folder; its subprocesses are real ones."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as error:
        with _redirected(1, output.fileno()), _redirected(2, error.fileno()), contextlib.chdir(folder):
            code = _run(module, arguments)
        written = []
        for file in (output, error):
            file.seek(0)
            written.append(file.read())
    return Ended(code, *written)


def _run(module: str, arguments: Sequence[str]) -> int:
    # A test may have replaced sys.stdout: Python's output must reach the file descriptors.
    with open(1, "w", closefd=False) as output, open(2, "w", closefd=False) as error, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".* found in sys\.modules", category=RuntimeWarning)
        redirected = contextlib.redirect_stdout(output), contextlib.redirect_stderr(error)
        try:
            with redirected[0], redirected[1], _environment(module, arguments):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=error)
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:  # any error of the command, printed as Python does
            traceback.print_exc(file=error)
            return 1
    return 0


@contextlib.contextmanager
def _environment(module: str, arguments: Sequence[str]) -> Iterator[None]:
    """Set the arguments of the command, and let its subprocesses import this repository."""
    with mock.patch.object(sys, "argv", [module, *arguments]), mock.patch.dict(os.environ, PYTHONPATH=str(ROOT)):
        yield


@contextlib.contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    saved = os.dup(descriptor)
    try:
        os.dup2(target, descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
