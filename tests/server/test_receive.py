"""A push of the real code to a bare repository: what it makes live on a real server, and what it does not."""

import threading
from collections.abc import Iterator

import pytest

from benchmarks.harness.pushed_clone import CHANNELS, SWAPPED, Clone
from pipeline.receiving import push
from pipeline.receiving.progress import Progress
from pipeline.receiving.push import Push
from pipeline.receiving.targets import ServerTarget
from serving.client import NotFound
from serving.lifecycle.deployment import DeployError
from serving.store.live import Live
from tests.server.conftest import RunningServer, export, picture

NAME, CLASSES = "pushed", ("circle", "square", "triangle")


@pytest.fixture(scope="module")
def clone(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Return a clone whose first commit has made a new model live beside those of the session."""
    export(server.root / "runs" / NAME, CLASSES, 5)
    clone = Clone.of(tmp_path_factory.mktemp("push"), server.root)
    clone.change("deploy/models.yaml", f"{NAME}: [minWorkers=1, handler.precision=fp32]\n")
    commit, lines = clone.commit(), clone.push()
    assert lines[-1].startswith(f"{commit[:12]} is live: {NAME} 1.0 ("), lines
    yield clone
    target = ServerTarget(server.root, print)
    if NAME in target.live():
        target.undo(NAME, target.live()[NAME].version)


def live(server: RunningServer) -> dict[str, str]:
    return {name: model.version for name, model in Live.read(server.root).models.items()}


def test_a_push_makes_only_the_changed_model_live_and_its_answers_name_the_commit(
    clone: Clone, server: RunningServer
) -> None:
    assert live(server) == {"digits": "2.0", "shapes": "1.0", NAME: "1.0"}
    answer = server.client.predict(picture(1), NAME)
    assert (answer.version, answer.commit) == ("1.0", clone.git("rev-parse", "HEAD"))


@pytest.mark.slow
def test_a_commit_that_breaks_the_answers_never_goes_live(clone: Clone, server: RunningServer) -> None:
    before, commits, ended = server.client.predict(picture(1), NAME), list[str | None](), threading.Event()

    def poll() -> None:
        while not ended.wait(0.05):
            commits.append(server.client.predict(picture(1), NAME).commit)

    caller = threading.Thread(target=poll)
    caller.start()
    try:
        clone.change("handlers/preprocessing.py", CHANNELS, SWAPPED)
        commit, lines = clone.commit(), clone.push()
    finally:
        ended.set()
        caller.join()
        clone.change("handlers/preprocessing.py", SWAPPED, CHANNELS)
    assert lines[-1].startswith(f"error: {commit[:12]} is not live: no archive of digits can be built: "), lines[-1]
    assert "golden" in lines[-1] and len(commits) > 10 and set(commits) == {before.commit}
    assert live(server) == {"digits": "2.0", "shapes": "1.0", NAME: "1.0"}
    assert [path.stem for path in (server.root / "model_store").glob(f"{NAME}-*.mar")] == [f"{NAME}-1.0"]


class Failing(ServerTarget):
    """A server that does not take one model."""

    def deploy(self, name: str, version: str) -> None:
        if name == "shapes":
            raise DeployError(f"{name} {version} is not deployed: watch failed: a worker died")
        super().deploy(name, version)


@pytest.mark.slow
def test_models_before_one_that_fails_go_back_on_the_server(
    clone: Clone, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.repository.git("config", "sightline.branch", "tried")  # whose pushes the test does itself
    clone.change("deploy/models.yaml", "shapes: [minWorkers=1]\n")
    clone.change("deploy/models.yaml", f"{NAME}: [minWorkers=1,", f"{NAME}: [batchSize=2, minWorkers=1,")
    commit = clone.commit()
    clone.push()
    clone.repository.git("branch", "--force", "tried", commit)
    monkeypatch.setattr(push, "ServerTarget", Failing)
    with Progress(clone.repository.folder / "logs", commit) as progress:
        assert not Push(clone.repository, commit, progress).run()
    lines = progress.path.read_text().splitlines()
    assert lines[-1].endswith("watch failed: a worker died") and f"undone: {NAME} 2.0" in lines
    assert live(server) == {"digits": "2.0", "shapes": "1.0", NAME: "1.0"}
    answer = server.client.predict(picture(1), NAME)
    assert answer.version == "1.0"
    with pytest.raises(NotFound):
        server.client.predict(picture(1), NAME, "2.0")
    assert not list((server.root / "model_store").glob(f"{NAME}-2.0*"))
