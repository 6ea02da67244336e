"""A push to a bare repository: its tests, the models that it changes, their order, and its end if a step fails.

git, the commands and the lock are real. The commits hold a small `serving.archive` of their own, which packs a text in
place of a network; tests/server/test_receive.py pushes the real one to a real server.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import filelock
import pytest

from handlers import process
from pipeline import receive
from pipeline.receiving import progress
from pipeline.receiving.progress import Progress
from pipeline.receiving.push import LOCK, STATE, Push
from pipeline.receiving.repository import Repository, RepositoryError, RepositorySettings
from serving.errors import ServingError
from serving.store.live import LiveModel
from tests.until import until

BUILDER = """
import argparse, json, pathlib, subprocess
parser = argparse.ArgumentParser()
for name in ("name", "version", "--root", "--run", "--format", "--unlike"):
    parser.add_argument(name)
parser.add_argument("settings", nargs="*")
options = parser.parse_intermixed_args()
store = pathlib.Path(options.root, "model_store")
document = {"text": pathlib.Path("handlers.txt").read_text(), "overrides": options.settings}
if "broken" in document["text"] and options.name == "moths":
    raise SystemExit("error: its golden answers differ")
if options.unlike:
    live = json.loads((store / f"{options.name}-{options.unlike}.json").read_text())
    if {name: live[name] for name in document} == document:
        raise SystemExit(0)
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
(store / f"{options.name}-{options.version}.mar").write_text("")
(store / f"{options.name}-{options.version}.json").write_text(json.dumps({**document, "commit": commit}))
"""


@dataclasses.dataclass
class Servers:
    """Live versions without a server; `failing` models cannot be deployed."""

    models: dict[str, LiveModel]
    failing: Sequence[str] = ()
    calls: list[str] = dataclasses.field(default_factory=list)
    pruned: list[str] = dataclasses.field(default_factory=list)
    is_gone: bool = False
    is_interrupted: bool = False  # in a deployment, after its switch

    def live(self) -> dict[str, LiveModel]:
        return dict(self.models)

    def fetch(self, name: str, version: str) -> None:
        pass

    def deploy(self, name: str, version: str) -> None:
        self.calls.append(f"deploy {name} {version}")
        if name in self.failing:
            raise ServingError("compare failed")
        before = self.models.get(name)
        self.models[name] = LiveModel(version, before.version if before is not None else None)
        if self.is_interrupted:
            raise KeyboardInterrupt

    def undo(self, name: str, version: str) -> bool:
        if name not in self.models or self.models[name].version != version:
            return False
        self.calls.append(f"undo {name} {version}")
        if self.is_gone:
            raise ServingError("no server runs here")
        before = self.models.pop(name).previous
        if before is not None:
            self.models[name] = LiveModel(before)
        return True

    def prune(self, name: str, keep: int) -> None:
        self.pruned.append(f"{name} {keep}")


class Project:
    """A clone with one commit, the bare repository that it is pushed to, and a serving folder with two live models."""

    def __init__(self, folder: Path) -> None:
        self.root, self.clone = folder / "root", folder / "clone"
        for path in (self.root / "model_store", self.clone / "serving"):
            path.mkdir(parents=True)
        (self.root / "config.properties").touch()
        for name in ("birds", "moths"):
            (self.root / "runs" / name).mkdir(parents=True)
            (self.root / "runs" / name / "model.pt").touch()
            (self.root / "model_store" / f"{name}-1.0.mar").touch()
            self.sidecar(name, "1.0").write_text(json.dumps({"text": "first", "overrides": ["batchSize=4"]}))
        self.servers = Servers({"birds": LiveModel("1.0"), "moths": LiveModel("1.0")})
        self.repository = Repository(folder / "birds.git")
        self.set_up()
        (self.clone / "serving" / "archive.py").write_text(BUILDER)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "live", str(self.repository.path))
        self.commit("handlers.txt", "first")

    def set_up(self, *commands: str) -> None:
        settings = RepositorySettings(self.root, commands=commands or ("true",), python=sys.executable)
        receive.set_up(self.repository, settings)

    def sidecar(self, name: str, version: str) -> Path:
        return self.root / "model_store" / f"{name}-{version}.json"

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
        command = ["git", "-C", str(self.clone), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def commit(self, file: str, text: str) -> str:
        """Commit a file, and put the commit into the repository without its hook; return it."""
        path = self.clone / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", file)
        hook = self.repository.path / "hooks" / "post-receive"
        hook.chmod(0o644)
        self.git("push", "--quiet", "live", "HEAD:main")
        hook.chmod(0o755)
        return self.git("rev-parse", "HEAD")

    def push(self, output: TextIO | None = None) -> tuple[bool, list[str]]:
        """Do the push of the newest commit; return whether it succeeded, and its lines."""
        said = output or io.StringIO()
        commit = self.repository.tip("main")
        with Progress(self.repository.folder / "logs", commit, said) as lines:
            push = Push(self.repository, commit, lines)
            push.target = self.servers
            success = push.run()
        return success, lines.path.read_text().splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def stored(project: Project) -> list[str]:
    return sorted(path.stem for path in (project.root / "model_store").glob("*.mar"))


def test_a_commit_that_changes_no_archive_deploys_nothing(project: Project) -> None:
    commit = project.commit("README.md", "words")
    success, lines = project.push()
    assert success and lines[-1].startswith(f"{commit[:12]} changes no model: nothing is deployed")
    assert (project.servers.calls, stored(project)) == ([], ["birds-1.0", "moths-1.0"])


def test_changed_code_deploys_all_models_in_turn_with_the_settings_of_the_live_archives(project: Project) -> None:
    commit = project.commit("handlers.txt", "second")
    success, lines = project.push()
    assert success and lines[-1].startswith(f"{commit[:12]} is live: birds 2.0, moths 2.0")
    assert project.servers.calls == ["deploy birds 2.0", "deploy moths 2.0"]
    assert project.servers.pruned == ["birds 5", "moths 5"]
    assert json.loads(project.sidecar("moths", "2.0").read_text())["overrides"] == ["batchSize=4"]


def test_the_settings_in_a_commit_change_only_their_model_and_a_name_may_be_new(project: Project) -> None:
    (project.root / "runs" / "ants").mkdir()
    (project.root / "runs" / "ants" / "model.pt").touch()
    project.commit("deploy/models.yaml", "moths: [batchSize=8]\nants: []\n")
    success, _ = project.push()
    assert success and project.servers.calls == ["deploy ants 1.0", "deploy moths 2.0"]
    assert json.loads(project.sidecar("moths", "2.0").read_text())["overrides"] == ["batchSize=8"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- birds", "is no list of models: write a line such as"),
        ("birds: batchSize=8", "is no list of models"),
        ("birds: [", "cannot be read"),
        ("birds: ['--prune=1']", "is no list of models"),
        ("wasps: []", "names wasps, and .*runs/wasps has no network: train it there, or remove the line"),
        ("a/b: []", "a/b"),
    ],
)
def test_a_wrong_list_of_models_is_one_line(project: Project, text: str, reason: str) -> None:
    project.commit("deploy/models.yaml", text)
    success, lines = project.push()
    assert not success and project.servers.calls == []
    assert re.search(reason, lines[-1]), lines[-1]


def test_a_live_model_without_a_run_stays(project: Project) -> None:
    (project.root / "runs" / "birds" / "model.pt").unlink()
    project.commit("handlers.txt", "second")
    success, lines = project.push()
    assert success and project.servers.calls == ["deploy moths 2.0"]
    assert any(line.startswith("birds 1.0 stays: ") for line in lines)


def test_a_run_in_the_checkout_is_taken_before_that_of_the_serving_folder(project: Project) -> None:
    project.set_up(f"{sys.executable} -c \"import pathlib; p = pathlib.Path('runs/birds'); p.mkdir(parents=True)\"")
    project.commit(".gitignore", "runs\n")
    success, lines = project.push()
    assert success and any(re.match(r"birds 1.0 stays: .*/checkout/runs/birds has no network", line) for line in lines)
    project.set_up("true")
    project.commit("handlers.txt", "second")
    success, lines = project.push()
    assert success and "birds 2.0" in lines[-1], "the run of the push before is gone"


def test_failed_tests_build_nothing_and_their_last_line_is_the_reason(project: Project) -> None:
    project.set_up("true", f"{sys.executable} -c \"print('one'); raise SystemExit('two tests failed')\"", "touch never")
    commit = project.commit("handlers.txt", "second")
    success, lines = project.push()
    assert not success and lines[-1].startswith(f"error: {commit[:12]} is not live: ")
    assert lines[-1].endswith("failed: two tests failed") and "one" in lines
    assert (project.servers.calls, stored(project)) == ([], ["birds-1.0", "moths-1.0"])
    assert not (project.repository.checkout / "never").exists()


def test_a_model_that_cannot_be_built_keeps_all_from_going_live(project: Project) -> None:
    project.commit("handlers.txt", "broken")
    success, lines = project.push()
    assert not success and "no archive of moths can be built: error: its golden answers differ" in lines[-1]
    assert (project.servers.calls, stored(project)) == ([], ["birds-1.0", "moths-1.0"])


def test_a_deployment_that_fails_undoes_those_before_it(project: Project) -> None:
    project.servers.failing = ["moths"]
    project.commit("handlers.txt", "second")
    success, lines = project.push()
    assert not success and lines[-1].endswith("is not live: compare failed") and "undone: birds 2.0" in lines
    assert project.servers.calls == ["deploy birds 2.0", "deploy moths 2.0", "undo birds 2.0"]
    assert stored(project) == ["birds-1.0", "moths-1.0"]
    assert not (project.repository.folder / STATE).exists()
    project.servers.failing = []
    _, lines = project.push()
    assert "is live: birds 3.0, moths 3.0" in lines[-1], "answers of birds 2.0 may be in a log"


def test_an_interrupt_after_a_switch_undoes_it(project: Project) -> None:
    project.servers.is_interrupted = True
    project.commit("handlers.txt", "second")
    success, lines = project.push()
    assert not success and lines[-1].endswith("is not live: interrupted") and "undone: birds 2.0" in lines
    assert {name: model.version for name, model in project.servers.models.items()} == {"birds": "1.0", "moths": "1.0"}


def test_what_cannot_be_undone_is_undone_by_the_next_push(project: Project) -> None:
    project.servers.failing, project.servers.is_gone = ["moths"], True
    project.commit("handlers.txt", "second")
    _, lines = project.push()
    assert any(line.startswith("not undone: birds 2.0 (no server runs here)") for line in lines)
    assert "birds-2.0" in stored(project), "it is live"
    project.servers.failing, project.servers.is_gone = [], False
    success, lines = project.push()
    assert success and lines.index("undone: birds 2.0") < lines.index("true ...")
    assert "birds-2.0" not in stored(project)


def test_an_archive_of_somebody_else_is_neither_deployed_nor_removed(project: Project) -> None:
    project.commit("handlers.txt", "second")
    project.commit("serving/archive.py", BUILDER.replace('"commit": commit', '"commit": "of another"'))
    success, lines = project.push()
    assert not success and "somebody else has built birds 2.0: push again" in lines[-1]
    assert project.servers.calls == [] and "birds-2.0" in stored(project)


def test_the_archives_are_of_the_commit_without_the_changes_of_its_tests(project: Project) -> None:
    project.set_up(f"{sys.executable} -c \"open('handlers.txt', 'w').write('changed'); open('more', 'w')\"")
    success, lines = project.push()
    assert success and "changes no model" in lines[-1]
    assert not (project.repository.checkout / "more").exists()


class Listener(io.StringIO):
    """Calls a function when a line begins with some words."""

    def __init__(self, begin: str, work: Callable[[], object]) -> None:
        super().__init__()
        self.begin, self.work = begin, work

    def write(self, text: str) -> int:
        if text.startswith(self.begin):
            self.work()
        return super().write(text)


@contextlib.contextmanager
def under_way(project: Project) -> Iterator[Callable[[], None]]:
    """Hold the lock of a push, until the function is called that this yields."""
    is_held, is_free = threading.Event(), threading.Event()

    def hold() -> None:
        with filelock.FileLock(project.repository.folder / LOCK):
            is_held.set()
            is_free.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(10)
    yield is_free.set
    is_free.set()
    holder.join()


def test_a_push_waits_for_the_one_before_it(project: Project) -> None:
    project.commit("handlers.txt", "second")
    with under_way(project) as release:
        success, lines = project.push(Listener("another push is under way", release))
    assert success and "is live" in lines[-1]


def test_of_those_that_wait_only_the_newest_is_tested(project: Project) -> None:
    newer = list[str]()
    commit = project.commit("handlers.txt", "second")
    with under_way(project) as release:

        def push_another() -> None:
            newer.append(project.commit("handlers.txt", "third"))
            release()

        success, lines = project.push(Listener("another push is under way", push_another))
    assert not success and lines[-1] == f"{commit[:12]} is not tested: {newer[0][:12]} has taken its place"
    assert project.servers.calls == []


def test_a_killed_push_leaves_nothing_that_stops_the_next_one(project: Project) -> None:
    project.push()
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as left:
        project.servers.models["birds"] = LiveModel("2.0", "1.0")  # of the killed push, which went no further
        for name in ("birds", "moths"):
            (project.root / "model_store" / f"{name}-2.0.mar").touch()
            document = {"text": "second", "overrides": ["batchSize=4"], "commit": "killed"}
            project.sidecar(name, "2.0").write_text(json.dumps(document))
        state: dict[str, Any] = {"commit": "killed"}
        state |= {"process": [left.pid, process.created(left.pid)], "archives": [["birds", "2.0"], ["moths", "2.0"]]}
        (project.repository.folder / STATE).write_text(json.dumps(state))
        (project.repository.path / "worktrees" / "checkout" / "index.lock").touch()
        project.commit("handlers.txt", "second")
        success, lines = project.push()
        assert left.wait(10) == -signal.SIGKILL
    assert success and "is live: moths 2.0" in lines[-1], "birds has that content already"
    assert project.servers.calls == ["deploy moths 2.0"]


def test_an_interrupt_ends_the_commands_and_is_said(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    project.set_up(f"bash -c 'echo $$ > {file}; kill -INT {os.getpid()}; read < <(tail -f /dev/null)'")
    success, lines = project.push()
    assert not success and lines[-1].endswith("is not live: interrupted")
    until(lambda: not Path(f"/proc/{file.read_text().strip()}").exists(), 5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_pusher_who_leaves_does_not_stop_the_push(project: Project) -> None:
    project.commit("handlers.txt", "second")
    reading, writing = os.pipe()
    os.close(reading)
    output = open(writing, "w")  # noqa: SIM115 (closing it fails)
    success, lines = project.push(output)
    assert success and "is live" in lines[-1]
    with contextlib.suppress(BrokenPipeError):
        output.close()


def test_a_pusher_who_does_not_read_holds_up_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    project.commit("handlers.txt", "second")
    project.set_up(f"{sys.executable} -c \"print(100_000 * 'a test has passed\\n')\"")
    reading, writing = os.pipe()
    output = os.fdopen(writing, "w")
    success, lines = project.push(output)
    assert success and "is live" in lines[-1]
    os.close(reading)
    with contextlib.suppress(BrokenPipeError):
        output.close()


def test_logs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LARGEST", 100)
    for number in range(progress.LOGS + 3):
        with Progress(tmp_path, f"{number:040}", io.StringIO()) as lines:
            for _ in range(50):
                lines.output("a test has passed")
            lines.line("the end")
    assert len(list(tmp_path.iterdir())) == progress.LOGS
    text = lines.path.read_text()
    assert len(text) < 250 and text.count("left out") == 1 and text.endswith("the end\n")


def test_the_hook_answers_a_real_push_and_a_commit_changes_neither_it_nor_the_settings(project: Project) -> None:
    project.set_up("cat hooks/post-receive", f'{sys.executable} -c "import os; print(os.environ)"', "false")
    project.commit("hooks/post-receive", "#!/bin/sh\n# the commit's own\n")
    project.commit("sightline/push.json", "{}")
    hook, settings = project.repository.path / "hooks" / "post-receive", project.repository.settings()
    before = hook.read_text()
    project.git("commit", "--quiet", "--allow-empty", "--message", "more")
    command = ["git", "-C", str(project.clone), "push", "live", "HEAD:main", "HEAD:other"]
    pushed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert pushed.returncode == 0, pushed.stderr
    lines = [line.removeprefix("remote: ").rstrip() for line in pushed.stderr.splitlines()]
    assert "# the commit's own" in lines and "refs/heads/other is not main: nothing is deployed" in lines
    assert not re.search(r"'(GIT_DIR|PYTHONPATH)'", pushed.stderr)
    assert any(line.endswith("is not live: false failed: exit status 1") for line in lines)
    assert (hook.read_text(), project.repository.settings()) == (before, settings)


def test_a_branch_that_is_removed_changes_nothing(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert receive.received(project.repository, f"{'1' * 40} {'0' * 40} refs/heads/main\n")
    assert capsys.readouterr().out == "main was removed: the servers answer as before\n"


def test_settings_are_read_as_written_and_another_set_up_replaces_them(project: Project) -> None:
    for commands in (("make check", "make test ARGS='-k \"a b\"'"), ("make test",)):
        settings = RepositorySettings(project.root, "live", commands, fleet="gs://bucket/fleet", key="/k", archives=2)
        receive.set_up(project.repository, settings)
        assert project.repository.settings() == settings


def test_a_wrong_folder_is_refused(project: Project, tmp_path: Path) -> None:
    settings = RepositorySettings(project.root)
    with pytest.raises(RepositoryError, match=r"has no config\.properties: run this in the folder of the server"):
        receive.set_up(project.repository, dataclasses.replace(settings, root=tmp_path))
    with pytest.raises(RepositoryError, match="is not a bare repository: name a new folder"):
        receive.set_up(Repository(project.clone), settings)
    (project.repository.path / "hooks" / "post-receive").write_text("#!/bin/sh\n")
    with pytest.raises(RepositoryError, match="is the hook of another program"):
        receive.set_up(project.repository, settings)
    with pytest.raises(RepositoryError, match="has no settings for deployments"):
        Repository(project.clone).settings()
