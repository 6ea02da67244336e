"""What every test may ask for: the device, the precision, real images where a person has them, and a fixed seed.

python -m pytest                         the suite, on the CPU
python -m pytest --device cuda           the same tests on a GPU; on the CPU where there is none
python -m pytest -m slow tests/server/test_page.py --screenshots docs/pictures    make the pictures of docs/page.md
SIGHTLINE_REAL_DATA=<folder> ...         tests that can use real images take them from there
"""

import functools
import math
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

SHARED = "server: RunningServer"  # a parameter of tests that use the server of tests/server/conftest.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", choices=("cpu", "cuda"), help="where tensors live (cuda: if there is one)"
    )
    parser.addoption(
        "--screenshots", type=Path, help="folder for the pictures of docs/page.md (tests/server/test_page.py)"
    )
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failure")


def pytest_configure(config: pytest.Config) -> None:
    # Read by the OpenMP runtime when torch is first imported, here and in every process that a test starts: the cores
    # of a small machine are shared by the test, the server and its workers.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What a shell runs in the background ignores Ctrl-C, and so would all that a test starts and interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest, so that two processes end together: servers, then unit tests in large files."""
    items.sort(key=lambda item: -_bytes(item.path) if "unit" in item.path.parts else -math.inf)


@functools.cache
def _bytes(path: Path) -> int:
    return path.stat().st_size


@functools.cache
def _shares_the_server(path: Path) -> bool:
    return SHARED in path.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let pytest-xdist, where it is asked for, share out tests by file, and those with one server to one process."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "server" if _shares_the_server(config.rootpath / file) else file

    return Files(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if reporter and skipped and session.config.getoption("--no-skips") and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line("")
        reporter.write_line(f"error: skipped: {', '.join(sorted({str(each.nodeid) for each in skipped}))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> "torch.device":
    """Return the device of `--device`: without it the CPU, so that no test is left out."""
    import torch

    wanted = request.config.getoption("--device")
    if wanted != "cpu" and not torch.cuda.is_available():
        raise pytest.UsageError(f"--device {wanted}: torch finds no GPU here; leave it out to test on the CPU")
    return torch.device(wanted)


@pytest.fixture(scope="session")
def real_data() -> Path | None:
    """Return the folder of real images that `SIGHTLINE_REAL_DATA` names, or None: then generated ones are used."""
    named = os.environ.get("SIGHTLINE_REAL_DATA")
    if not named:
        return None
    folder = Path(named).resolve()
    if not folder.is_dir():
        raise pytest.UsageError(f"SIGHTLINE_REAL_DATA names {named}, which is not a folder: unset or correct it")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same random state, in whatever order they run."""
    import sys

    random.seed(0)
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the global state
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)
