"""What a fleet should serve: the shared document, the turns of its nodes, and who is alive."""

import dataclasses
import itertools
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from serving import deploy
from serving.errors import ServingError, Unreachable
from serving.fleet import agent, archives, reports, shared_document
from serving.fleet.agent import Agent
from serving.fleet.desired import Desired, Ended, FleetError, Rollout
from serving.fleet.reports import NodeReport, Reports
from serving.fleet.shared_document import KEPT, AddressError, Changed, Revision, SharedDocument, below
from serving.fleet.state import FOLDER, check_exists
from serving.host.state import ServerState
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.store import model_store, provenance, signature
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError
from serving.store.signature import SignatureError

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


def test_a_change_that_comes_very_late_is_refused(url: str) -> None:
    document = SharedDocument(url)
    for number in range(KEPT + 10):
        document.replace(number, {"n": number})
    with pytest.raises(Changed):
        document.replace(2, {"n": "late"})
    assert document.read() == Revision(KEPT + 10, {"n": KEPT + 9})


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


def test_an_address_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AddressError, match="check the address"):
        SharedDocument(str(tmp_path / "file" / "below")).replace(0, {})
    with pytest.raises(AddressError, match="nosuch"):
        SharedDocument("nosuch://fleet")
    monkeypatch.setattr(shared_document, "EXCLUSIVE", {"file"})
    with pytest.raises(AddressError, match="name a folder, or a bucket of"):
        SharedDocument("memory://fleet")


def test_a_slash_at_the_end_changes_nothing(tmp_path: Path) -> None:
    SharedDocument(below(f"{tmp_path}/", "desired")).replace(0, {"n": 1})
    assert SharedDocument(below(str(tmp_path), "desired")).read().number == 1
    Reports(f"{tmp_path}/").write(report("a", 1))
    assert set(Reports(str(tmp_path)).read()) == {"a"}


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
    assert state == Desired({"m": LiveModel("2.0", "1.0")}, None, Ended("id", None))
    assert state.allows({"m": "2.0", "other": "7"})
    assert not any(state.allows(served) for served in ({"m": "1.0"}, {"other": "7"}, {}))
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
    assert state.rollout is None and state.ended == Ended("id", "interrupted")


def test_after_a_failure_the_nodes_go_back_in_the_opposite_order() -> None:
    state = taken("a", "b").with_failure("id", "c: it is too slow", node="c")
    assert state.with_failure("id", "again") == state
    assert [state.versions_of(node)["m"] for node in NODES] == ["2.0", "1.0", "1.0"]
    assert state.rollout is not None and state.rollout.turn == "b"
    assert state.with_turn_taken("id", "b", back=False) == state  # it ended its turn before it saw the failure
    state = state.with_turn_taken("id", "b", back=True)
    assert state.rollout is not None and state.rollout.turn == "a" and state.versions_of("a") == {"m": "1.0"}
    state = state.with_turn_taken("id", "a", back=True)
    assert state == Desired({"m": LiveModel("1.0", "0.9")}, None, Ended("id", "c: it is too slow"))


def test_a_failure_of_the_first_node_ends_it_at_once() -> None:
    assert begun().with_failure("id", "bad", node="a").ended == Ended("id", "bad")


def test_a_dead_node_is_left_out() -> None:
    state = taken("a").without("id", "b")
    assert state.rollout is not None and state.rollout.turn == "c"
    assert state.without("id", "c").models["m"] == LiveModel("2.0", "1.0")  # only it was missing
    back = state.with_failure("id", "bad", node="c").without("id", "a")
    assert back.rollout is None and back.models["m"].version == "1.0"
    nobody = begun().without("id", "a").without("id", "b").without("id", "c")
    assert (
        nobody.rollout is None
        and nobody.ended == Ended("id", "no node is left", NODES)
        and nobody.models["m"].version == "1.0"
    )


def test_what_cannot_begin_says_why() -> None:
    with pytest.raises(FleetError, match=r"m 2\.0 is being deployed"):
        begun().with_rollout(dataclasses.replace(rollout("3.0"), id="id2"))
    with pytest.raises(FleetError, match=r"1\.0 is live already"):
        Desired({"m": LiveModel("1.0")}).with_rollout(rollout("1.0"))
    with pytest.raises(FleetError, match="make watch FLEET="):
        Desired().with_rollout(rollout(nodes=()))
    with pytest.raises(FleetError, match="damaged"):
        Desired.of_document({"models": {"m": {"version": "1.0"}}})


def test_a_model_that_the_fleet_does_not_know_goes_back_to_what_the_nodes_serve() -> None:
    state = Desired().with_rollout(rollout(before="1.0"))
    assert [state.versions_of(node)["m"] for node in NODES] == ["2.0", "1.0", "1.0"]
    state = state.with_failure("id", "bad", node="a")
    assert state.models == {"m": LiveModel("1.0")} and not state.allows({"m": "2.0"})


def test_a_version_that_the_nodes_serve_already_has_none_before_it() -> None:
    state = Desired().with_rollout(rollout("1.0", before="1.0"))
    back = state.with_turn_taken("id", "a", back=False).with_failure("id", "interrupted")
    assert [back.versions_of(node)["m"] for node in NODES] == ["1.0"] * 3
    for node in NODES:
        state = state.with_turn_taken("id", node, back=False)
    assert state.models == {"m": LiveModel("1.0")}


def test_a_new_model_that_fails_is_withdrawn_until_it_is_deployed_again() -> None:
    new = Desired().with_rollout(rollout("1.0"))
    assert [new.versions_of(node)["m"] for node in NODES] == ["1.0", None, None] and new.allows({"m": "0.1"})
    failed = new.with_turn_taken("id", "a", back=False).without("id", "a").with_failure("id", "bad", node="b")
    assert failed.models == {} and failed.ended == Ended("id", "bad", ("a",))
    assert not failed.allows({"m": "1.0"}) and failed.allows({"m": "0.1"})
    assert Desired.of_document(failed.document()) == failed
    assert failed.with_rollout(rollout("1.0")).allows({"m": "1.0"})


def test_a_deployment_that_was_written_unseen_has_begun_once() -> None:
    assert begun().with_rollout(rollout()) == begun()


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
        assert seen.dead() == (set() if now - 2 <= reports.DEAD_AFTER else {"b"})
    seen.write(report("b", 99))
    seen.read()
    assert seen.dead() == set()
    now += 100.0  # nobody has looked
    seen.read()
    assert seen.dead() == set()
    seen.remove("b")
    assert set(seen.read()) == {"a"} and seen.dead() == set()
    with pytest.raises(ServingError, match="no node has the name b"):
        seen.remove("b")


def test_only_nodes_that_say_something_new_are_alive(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "REPORT_INTERVAL", 0.05)
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


def test_a_node_keeps_an_archive_that_the_fleet_does_not_have(url: str, tmp_path: Path) -> None:
    archive = store_with(tmp_path / "a", "1.0", b"weights")
    archives.fetch("m", "1.0", url, tmp_path / "a")
    assert archive.path.is_file()


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
    signature.path_of(archive).write_text("signed")  # afterwards
    archives.push(archive, url)
    archives.fetch("m", "1.0", url, other)
    assert (other / "m-1.0.sig").read_text() == "signed"
    with pytest.raises(ArchiveError, match=r"another m 1\.0: give this one another version"):
        archives.push(store_with(tmp_path / "c", "1.0", b"other weights"), url)
    with pytest.raises(ArchiveError, match="is not the fleet's"):
        archives.fetch("m", "1.0", url, tmp_path / "c")
    files, path = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{path}/archives/m-1.0.mar", b"half of it")
    with pytest.raises(ArchiveError, match="is damaged"):
        archives.fetch("m", "1.0", url, tmp_path / "d")
    assert not list((tmp_path / "d").glob("*.mar"))


class Node:
    """An agent whose server answers with version 1.0 of the model, and whose deployments end as a test says."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url, self.now, self.error = str(root / "fleet"), 0.0, Exception()
        monkeypatch.setattr(agent, "served", lambda *_: {"m": "1.0"})
        monkeypatch.setattr(Agent, "_is_same", lambda *_: True)
        monkeypatch.setattr(archives, "fetch", self.fail)
        (root / "node").mkdir()
        self.agent = Agent(root / "node", self.url, "a", clock=lambda: self.now)
        self.document = SharedDocument(below(self.url, FOLDER))
        self.document.replace(0, begun().document())

    def fail(self, *_: object) -> None:
        raise self.error

    def look(self, error: Exception) -> Desired:
        """Have the agent look while its deployments end with an error; return the state afterwards."""
        self.error = error
        self.agent.look()
        return Desired.of_document(self.document.read().document)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_a_version_that_is_at_fault_takes_the_fleet_back(node: Node) -> None:
    state = node.look(DeployError("it is too slow"))
    assert state.rollout is None and state.ended == Ended("id", "a: it is too slow")


@pytest.mark.parametrize("error", [AddressError("no bucket"), Unreachable("no answer"), OSError("full"), KeyError("x")])
def test_trouble_is_waited_for_and_in_the_end_the_node_is_left_out(node: Node, error: Exception) -> None:
    while node.now <= agent.TROUBLE_LIMIT:
        assert node.look(error) == begun()
        node.now += agent.PAUSE
    state = node.look(error)
    assert state.rollout is not None and state.rollout.turn == "b" and state.rollout.left_out == ("a",)


def test_a_server_that_was_stopped_is_not_waited_for(node: Node, tmp_path: Path) -> None:
    ServerState.stay_stopped(tmp_path / "node")
    state = node.look(Unreachable("no answer"))
    assert state.rollout is not None and state.rollout.left_out == ("a",)


def test_a_node_says_why_it_waits_until_it_does_not(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.look(Unreachable("no answer"))
    assert node.agent.reason == "no answer"
    monkeypatch.setattr(Agent, "_serve", lambda *_, **__: None)
    monkeypatch.setattr(agent, "served", lambda *_: {"m": "2.0"})
    monkeypatch.setattr(archives, "fetch", lambda *_: None)
    node.now += agent.PAUSE
    assert node.look(Exception()) == taken("a") and node.agent.reason == ""


def test_a_server_that_dies_twice_in_a_turn_is_the_version_s_fault(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agent, "_is_same", lambda *_: False)
    assert node.look(DeployError("the server has ended")) == begun()
    node.now += agent.PAUSE
    assert node.look(DeployError("the server has ended")).ended == Ended("id", "a: the server has ended")


def test_a_fault_after_a_death_is_the_version_s_fault(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Agent, "_is_same", lambda *_: False)
        assert node.look(DeployError("the server has ended")) == begun()
    node.now += agent.PAUSE
    assert node.look(DeployError("it is too slow")).ended == Ended("id", "a: it is too slow")


def test_a_model_that_fails_leaves_the_others_their_attempts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("bad", "good")
    node.document.update(lambda _: Desired({name: LiveModel("1.0") for name in names}).document())
    tried: list[str] = []

    def serve(_: Agent, name: str, *__: object) -> None:
        tried.append(name)
        raise DeployError(f"{name} does not load")

    monkeypatch.setattr(Agent, "_serve", serve)
    for _ in range(100):
        node.agent.look()
        node.now += 1.0
    assert tried.count("good") == tried.count("bad") and 4 <= tried.count("bad") <= 6  # after 5, 10, 20, 40 seconds
    assert node.agent.reason == "bad does not load; good does not load"
    node.document.update(lambda _: Desired().document())
    node.agent.look()
    assert node.agent.reason == ""


def test_trouble_of_a_turn_before_does_not_count(node: Node) -> None:
    node.look(Unreachable("no answer"))
    node.now += agent.TROUBLE_LIMIT + 1
    other = dataclasses.replace(rollout(), id="id2")
    node.document.update(lambda _: Desired({"m": LiveModel("1.0")}).with_rollout(other).document())
    assert node.look(Unreachable("no answer")).rollout == dataclasses.replace(other, before="1.0")


def test_a_fleet_that_cannot_be_read_is_said_once(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.document.update(lambda _: {"models": {"m": {}}})
    for _ in range(3):
        node.agent.look()
        node.agent.report()
    assert caplog.text.count("not followed at present") == 1 and "the newest file of desired/ is damaged" in caplog.text


def test_a_name_is_one_server_s(node: Node, tmp_path: Path) -> None:
    node.agent.report()
    Agent(tmp_path / "node", node.url, "a")  # again, after a restart
    for name, message in (("a", "choose another name with --node"), ("a/b", "cannot be the name of a node")):
        with pytest.raises(FleetError, match=message):
            Agent(tmp_path, node.url, name)


def test_a_report_says_why_no_server_runs(node: Node, tmp_path: Path) -> None:
    node.agent.report()
    assert Reports(node.url).read()["a"].reason == "its server is being started"
    ServerState.stay_stopped(tmp_path / "node")
    node.agent.report()
    assert "make serve there starts it" in Reports(node.url).read()["a"].reason


def test_a_kept_version_needs_its_signature_too_but_not_on_the_way_back(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "node"
    store_with(root / "model_store", "1.0", b"weights")
    (root / signature.PUBLIC_KEY).write_text("a key")
    Live({"m": LiveModel("2.0", "1.0")}).write(root)
    rolled_back: list[str] = []
    monkeypatch.setattr(archives, "fetch", lambda *_: None)
    monkeypatch.setattr(deploy, "rollback", lambda name, **_: rolled_back.append(name))
    with pytest.raises(SignatureError):
        node.agent._serve("m", "1.0", DeployLimits())
    assert rolled_back == []
    node.agent._serve("m", "1.0", DeployLimits(), is_back=True)
    assert rolled_back == ["m"]


def test_an_address_without_a_fleet_is_refused(url: str) -> None:
    with pytest.raises(FleetError, match="no fleet is at"):
        check_exists(url)
    Reports(url).write(report("a", 1))
    check_exists(url)


def test_after_an_undo_no_node_keeps_the_version_and_no_rollback_leads_to_it() -> None:
    live = Desired({"m": LiveModel("2.0", "1.0")})
    state = live.with_rollout(Rollout("id", "m", "1.0", None, NODES, {}, is_undo=True))
    for node in NODES:
        state = state.with_turn_taken("id", node, back=False)
    assert dict(state.models) == {"m": LiveModel("1.0")} and dict(state.withdrawn) == {"m": "2.0"}
    assert Desired.of_document(state.document()) == state
    assert not state.allows({"m": "2.0"}) and state.allows({"m": "1.0"})
    again = state.with_rollout(Rollout("next", "m", "3.0", None, NODES, {}))
    assert dict(again.withdrawn) == {}
