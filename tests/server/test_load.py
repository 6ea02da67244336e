"""`make load` against a real server: every kind of request, and a wrong answer among many."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.harness import small_server
from serving import archive
from serving.store.model_store import Archive
from tests.server.conftest import RunningServer, run_cli

# Once in so many requests, the second label is said to be the first.
WRONG = """

_right, _asked = Service.answer, 0

def _wrong(self, batch):
    global _asked
    replies = _right(self, batch)
    for number, reply in enumerate(replies):
        _asked += 1
        if _asked % {every} == 0 and reply.error is None and "predictions" not in reply.document:
            (first, p), (second, q), *rest = reply.document.items()
            replies[number] = Reply({{second: p, first: q, **dict(rest)}})
    return replies

Service.answer = _wrong
"""


def load(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run what `make load` runs; no answer is too slow."""
    return run_cli("tests.load.run", "--p95", "30000", *arguments, root=server.root)


def plant(built: Archive, every: int) -> None:
    """Have a handler in an archive answer wrongly once in `every` requests."""
    small_server.spoil(built.path, WRONG.format(every=every), "handlers/service.py")


def test_every_kind_of_request_gets_what_it_should(server: RunningServer) -> None:
    done = load(server, "--requests", "1000")
    assert done.returncode == 0, done.stderr
    assert "1,000 of 1,000 requests" in done.stderr and "0 failed" in done.stderr
    counts = dict(re.findall(r"^POST +(.*?) {2,}(\d+) ", done.stderr, re.MULTILINE))
    for name in ("single", "several, JSON", "several, form", "bad, 400", "bad, 413", "bad, 415", "wrong token"):
        assert int(counts[name]) > 0
    folder = server.root / "logs" / "load"
    assert "single" in (folder / "report.html").read_text() and (folder / "latency.png").stat().st_size > 10_000
    rows = json.loads((folder / "history.json").read_text())["seconds"]
    assert sum(row["answered"] for row in rows) == 1000 and max(row["p95"] for row in rows) > 0


def test_deployments_that_cannot_be_or_never_came_are_errors(server: RunningServer) -> None:
    done = load(server, "--requests", "50", "--swap", "shapes=1.0,7.0")
    assert done.returncode == 1 and "error: no archive of shapes 7.0" in done.stderr
    done = load(server, "--requests", "50", "--swap", "shapes=1.0,1.0", "--swap-pause", "100")
    assert done.returncode == 1 and "error: the load ended before the first deployment" in done.stderr


def test_limits_decide_the_exit_code(server: RunningServer) -> None:
    done = run_cli("tests.load.run", "--requests", "50", "--mix", "single=1", "--p95", "0.01", root=server.root)
    assert done.returncode == 1 and re.search(r"error: single: p95 is \d+ ms, the limit is 0.01 ms", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mix", "single=1,double=2"), "error: 'double=2' is no weight: write single=1,several=1,bad=1,token=1"),
        (("--models", "nothing"), "error: 404 ModelNotFoundException: Model not found: nothing"),
        (("--swap", "shapes=1.0"), "error: --swap 'shapes=1.0': write NAME=VERSION,VERSION"),
    ],
)
def test_what_cannot_be_done_is_one_line(server: RunningServer, arguments: tuple[str, ...], message: str) -> None:
    done = load(server, *arguments)
    assert done.returncode == 1 and done.stderr.strip() == message


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_cli("tests.load.run", root=tmp_path)
    assert done.returncode == 1 and done.stderr == "error: no server runs here: start one (make serve)\n"


def test_one_wrong_answer_among_many_is_found(server: RunningServer, root: Path) -> None:
    overrides = ["handler.precision=fp32", "minWorkers=1"]
    built = archive.build(
        "planted", "1.0", run=root / "runs" / "shapes", store=root / "model_store", overrides=overrides, rehearse=False
    )
    plant(built, every=700)
    with server.also_serving([built]):
        right = load(server, "--models", "planted", "--requests", "600", "--mix", "single=1")
        wrong = load(server, "--models", "planted", "--requests", "200", "--mix", "single=1")
    assert right.returncode == 0, right.stderr
    assert wrong.returncode == 1 and "error: 1 of 200 requests failed" in wrong.stderr
    assert re.search(r"planted 1\.0: golden image \S+ is answered", wrong.stderr), wrong.stderr
