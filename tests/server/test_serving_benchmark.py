"""The serving benchmark on a real TorchServe with a tiny network: every kind of row, the result, and its tables."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import serving
from benchmarks.comparison import rows as serving_rows
from benchmarks.comparison.rows import Bench, Row
from benchmarks.comparison.session import Session
from benchmarks.harness import servers
from benchmarks.harness.servers import NotMeasured, Running, top_1
from benchmarks.pages import serving_tables
from benchmarks.result import Origin
from handlers.atomic import write_json
from serving.host.state import ServerState
from tests.server.conftest import CLASSES, ROOT, export, free_offset, picture

BODY = "48x40"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a session that is ready to measure a network of seeded random weights."""
    folder = tmp_path_factory.mktemp("benchmark")
    export(folder / "run", CLASSES["shapes"])
    about = {"key": "0", "network": "tiny", "classes": 3, "image_size": 32, "parameters": 1000}
    write_json(folder / "run" / "train.json", about)
    images = [folder / BODY / f"{number}.jpg" for number in range(4)]
    images[0].parent.mkdir()
    for number, path in enumerate(images):
        path.write_bytes(picture(number))
    work = folder / "work"
    work.mkdir()
    bench = Bench(ROOT, work, folder / "run", free_offset(3000), probe=picture(), seconds=0.2, folders=(folder / BODY,))
    labels = serving.labels_of(bench, {BODY: images})
    return Session(bench, {BODY: images}, labels, (1, 4), 1, 0.5)


def row(name: str) -> Row:
    return next(row for row in serving_rows.rows() if row.name == name)


def refusing(bench: Bench) -> contextlib.AbstractContextManager[Running]:
    raise NotMeasured("it cannot be had")


@contextlib.contextmanager
def breaking(bench: Bench) -> Iterator[Running]:
    yield Running("http://127.0.0.1:1/", {})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk: apt-get install wrk")
def test_rows_are_measured_or_have_a_reason_and_nothing_is_left_behind(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = dataclasses.replace(row("ours-fp32"), open=True)
    rows = [ours, row("noop"), row("in-process-fp32")]
    rows += [Row("away", "away", "fp32", refusing), Row("dead", "dead", "fp32", breaking)]
    for each in rows:
        session.measure(each, 1)
    options = serving.parse(["--quick"])
    found = serving.document(session, rows, options, [], Origin("serving", ["--quick"]))
    cells = found["cells"]
    for name in ("ours-fp32", "noop"):
        assert set(cells[name][BODY]) == {"1", "4"}
        assert all(cell["requests_per_second"] > 10 and cell["failed"] == 0 for cell in cells[name][BODY].values())
        assert ServerState.read(session.bench.work / name) is None  # ended, and known to be
    assert cells["in-process-fp32"][BODY]["0"]["single_ms"] > 0
    assert found["open"]["ours-fp32"]["failures"] == 0
    reasons = {each["name"]: each["reason"] for each in found["rows"]}
    assert reasons["away"] == "it cannot be had" and "no answer" in reasons["dead"] and reasons["noop"] is None
    assert session.agreement == {"ours-fp32": 1.0}
    write_json(tmp_path / "serving.json", found)
    assert json.loads((tmp_path / "serving.json").read_text()) == found
    table = serving_tables.serving(tmp_path)
    assert "| **Sightline, fp32** | fp32 |" in table and "away: not measured (it cannot be had)." in table
    capsys.readouterr()
    serving.show(found)
    shown = capsys.readouterr().out
    assert "Sightline, fp32" in shown and "not measured: it cannot be had" in shown


def test_a_row_that_answers_otherwise_than_ours_is_not_measured(session: Session) -> None:
    class Wrong(Running):
        __slots__ = ()

        def ask(self, body: bytes, timeout: float = 1.0) -> bytes:
            return b'{"nothing of the kind": 1.0}'

    @contextlib.contextmanager
    def wrong(bench: Bench) -> Iterator[Running]:
        yield Wrong("http://127.0.0.1:1/", {})

    session.measure(Row("wrong", "wrong", "fp32", wrong, shares=True), 1)
    assert session.reasons["wrong"] == "answers 0 of 4 images as ours does in process: not the same network"


def test_a_peer_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log" / "peer.log"
    command = ["python3", "-c", "raise SystemExit('no room for this')"]
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    port = 9000 + free_offset(4000)
    starting = servers.peer(command, "/predict", {}, b"", port=port, root=ROOT, log=log)
    with pytest.raises(NotMeasured, match="it ended while it started: no room for this"), starting:
        pass
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize(
    "answer",
    [
        b'{"sparrow": 0.9, "finch": 0.1}',
        b'[{"sparrow": 9.5e-01}]',
        b'{"outputs":[{"shape":[1,1],"parameters":{"binary_data_size":30}}]}\x1e\x00\x00\x00{"sparrow": 0.9}',
    ],
)
def test_the_first_label_is_found_in_any_envelope(answer: bytes) -> None:
    assert top_1(answer) == "sparrow"


def test_an_answer_without_labels_is_refused() -> None:
    with pytest.raises(NotMeasured, match="has no probabilities"):
        top_1(b'{"code": "400"}')


def test_a_part_of_the_benchmark_does_not_overwrite_the_whole() -> None:
    whole = serving.parse([]).result
    assert whole == serving.RESULT
    for arguments in (["--quick"], ["--rows", "noop"], ["--connections", "1"]):
        assert serving.parse(arguments).result != whole
