"""What a fleet should serve: the shared document, the turns of its nodes, and who is alive."""

import itertools
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from serving.errors import ServingError
from serving.fleet import archives, reports
from serving.fleet.desired import Desired, FleetError, Rollout
from serving.fleet.reports import NodeReport, Reports
from serving.fleet.shared_document import KEPT, AddressError, Changed, Revision, SharedDocument
from serving.store import model_store, provenance
from serving.store.live import LiveModel
from serving.store.model_store import Archive, ArchiveError

NODES = ("a", "b", "c")


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return an address: of a folder, and of a file system that fsspec reaches as it does a bucket."""
    if request.param == "folder":
        yield str(tmp_path / "fleet")
        return
    yield "memory://fleet"
    fsspec.filesystem("memory").store.clear()


def test_a_document_is_changed_only_by_who_has_seen_the_last_change(url: str) -> None:
    document = SharedDocument(url)
    assert document.read() == Revision(0, {})
    document.replace(0, {"n": 1})
    with pytest.raises(Changed):
        SharedDocument(url).replace(0, {"n": 2})
    assert SharedDocument(url).read() == Revision(1, {"n": 1})
    assert document.update(lambda now: {"n": now["n"] + 1}) == {"n": 2}
    assert document.update(lambda now: now) == {"n": 2} and document.read().number == 2


def test_no_change_of_many_writers_is_lost(tmp_path: Path) -> None:
    def count() -> None:
        document = SharedDocument(str(tmp_path))
        for _ in range(25):
            document.update(lambda now: {"n": now.get("n", 0) + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert SharedDocument(str(tmp_path)).read() == Revision(100, {"n": 100})
    assert len(list(tmp_path.iterdir())) <= KEPT + len(threads)


def test_an_address_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AddressError, match="check the address"):
        SharedDocument(str(tmp_path / "file" / "below")).replace(0, {})
    with pytest.raises(AddressError, match="nosuch"):
        SharedDocument("nosuch://fleet")


def rollout(version: str = "2.0", nodes: tuple[str, ...] = NODES, before: str | None = None) -> Rollout:
    return Rollout("id", "m", version, before, nodes, {"watch": 1.0})


def begun() -> Desired:
    return Desired({"m": LiveModel("1.0", "0.9")}).with_rollout(rollout())


def test_nodes_take_turns_and_the_last_one_makes_it_live() -> None:
    state = begun()
    for number, node in enumerate(NODES):
        assert state.rollout is not None and state.rollout.turn == node
        versions = [state.versions_of(each)["m"] for each in (*NODES, "another")]
        assert versions == ["2.0"] * (number + 1) + ["1.0"] * (3 - number)
        assert state.allows({"m": "1.0"}) and state.allows({"m": "2.0"}) and not state.allows({"m": "3.0"})
        for id_, other, back in (("id", "another", False), ("other id", node, False), ("id", node, True)):
            assert state.with_turn_taken(id_, other, back=back) == state
        assert Desired.of_document(json.loads(json.dumps(state.document()))) == state
        state = state.with_turn_taken("id", node, back=False)
    assert state == Desired({"m": LiveModel("2.0", "1.0")}, None, ("id", None))
    assert state.allows({"m": "2.0", "other": "7"}) and not state.allows({"m": "1.0"})
    assert Desired.of_document(state.document()) == state


def taken(*nodes: str) -> Desired:
    state = begun()
    for node in nodes:
        state = state.with_turn_taken("id", node, back=False)
    return state


def test_an_interrupt_takes_back_also_the_node_whose_turn_it_is() -> None:
    state = taken("a").with_failure("id", "interrupted")
    assert state.rollout is not None and state.rollout.turn == "b" and state.versions_of("b") == {"m": "1.0"}
    state = state.with_turn_taken("id", "b", back=True).with_turn_taken("id", "a", back=True)
    assert state.rollout is None and state.ended == ("id", "interrupted")


def test_after_a_failure_the_nodes_go_back_in_the_opposite_order() -> None:
    state = taken("a", "b").with_failure("id", "c: it is too slow", node="c")
    assert state.with_failure("id", "again") == state
    assert [state.versions_of(node)["m"] for node in NODES] == ["2.0", "1.0", "1.0"]
    assert state.rollout is not None and state.rollout.turn == "b"
    assert state.with_turn_taken("id", "b", back=False) == state  # it ended its turn before it saw the failure
    state = state.with_turn_taken("id", "b", back=True)
    assert state.rollout is not None and state.rollout.turn == "a" and state.versions_of("a") == {"m": "1.0"}
    state = state.with_turn_taken("id", "a", back=True)
    assert state == Desired({"m": LiveModel("1.0", "0.9")}, None, ("id", "c: it is too slow"))


def test_a_failure_of_the_first_node_ends_it_at_once() -> None:
    assert begun().with_failure("id", "bad", node="a").ended == ("id", "bad")


def test_a_dead_node_is_left_out() -> None:
    state = taken("a").without("id", "b")
    assert state.rollout is not None and state.rollout.turn == "c"
    assert state.without("id", "c").models["m"] == LiveModel("2.0", "1.0")  # only it was missing
    back = state.with_failure("id", "bad", node="c").without("id", "a")
    assert back.rollout is None and back.models["m"].version == "1.0"
    nobody = begun().without("id", "a").without("id", "b").without("id", "c")
    assert nobody.rollout is None and nobody.ended == ("id", "no node is left") and nobody.models["m"].version == "1.0"


def test_what_cannot_begin_says_why() -> None:
    with pytest.raises(FleetError, match=r"m 2\.0 is being deployed"):
        begun().with_rollout(rollout("3.0"))
    with pytest.raises(FleetError, match=r"1\.0 is live already"):
        Desired({"m": LiveModel("1.0")}).with_rollout(rollout("1.0"))
    with pytest.raises(FleetError, match="make watch FLEET="):
        Desired().with_rollout(rollout(nodes=()))
    with pytest.raises(FleetError, match="damaged"):
        Desired.of_document({"models": {"m": {"version": "1.0"}}})


def test_a_model_that_the_fleet_does_not_know_goes_back_to_what_the_nodes_serve() -> None:
    state = Desired().with_rollout(rollout(before="1.0"))
    assert [state.versions_of(node)["m"] for node in NODES] == ["2.0", "1.0", "1.0"]
    new = Desired().with_rollout(rollout("1.0"))
    assert [new.versions_of(node)["m"] for node in NODES] == ["1.0", None, None] and new.allows({"m": "0.1"})


def report(name: str, count: int) -> NodeReport:
    return NodeReport(name, "host", "/folder", count, {"m": "1.0"})


def test_a_node_that_says_nothing_new_is_dead(url: str) -> None:
    now = 0.0
    seen = Reports(url, clock=lambda: now)
    assert seen.read() == {} and seen.dead() == set()
    for count in range(20):
        seen.write(report("a", count))
        if count < 3:
            seen.write(report("b", count))
        assert set(seen.read()) == {"a", "b"}
        now += 1.0
        assert seen.dead() == (set() if now - 2 <= reports.DEAD else {"b"})
    seen.write(report("b", 99))
    seen.read()
    assert seen.dead() == set()
    seen.remove("b")
    assert set(seen.read()) == {"a"} and seen.dead() == set()
    with pytest.raises(ServingError, match="no node has the name b"):
        seen.remove("b")


def test_only_nodes_that_say_something_new_are_alive(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "BEAT", 0.05)
    seen = Reports(url)
    seen.write(report("old", 1))
    counts = itertools.count()
    monkeypatch.setattr(time, "sleep", lambda _: seen.write(report("a", next(counts))))
    assert seen.alive() == ("a",)


def store_with(root: Path, version: str, content: bytes) -> Archive:
    """Return an archive of a model that has one member."""
    archive = Archive("m", version, model_store.path_of("m", version, root))
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive.path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "m", "modelVersion": version}}))
        file.writestr("content", content)
    archive.sidecar.write_text(json.dumps({"sha256": provenance.sha256(archive.path)}))
    return archive


def test_an_archive_reaches_another_store_whole_or_not_at_all(url: str, tmp_path: Path) -> None:
    archive, other = store_with(tmp_path / "a", "1.0", b"weights"), tmp_path / "b"
    with pytest.raises(ArchiveError, match=r"no archive of m 1\.0"):
        archives.fetch("m", "1.0", url, other)
    archives.push(archive, url)
    archives.push(archive, url)  # it is there
    for _ in range(2):
        archives.fetch("m", "1.0", url, other)
        assert (other / archive.path.name).read_bytes() == archive.path.read_bytes()
        assert (other / archive.sidecar.name).read_text() == archive.sidecar.read_text()
    with pytest.raises(ArchiveError, match=r"another m 1\.0: give this one another version"):
        archives.push(store_with(tmp_path / "c", "1.0", b"other weights"), url)
    with pytest.raises(ArchiveError, match="is not the fleet's"):
        archives.fetch("m", "1.0", url, tmp_path / "c")
    files, path = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{path}/archives/m-1.0.mar", b"half of it")
    with pytest.raises(ArchiveError, match="is damaged"):
        archives.fetch("m", "1.0", url, tmp_path / "d")
    assert not list((tmp_path / "d").glob("*.mar"))
