"""`make drift` reports on the log that a real server wrote."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.observation import segments
from monitoring.drift import distributions
from pipeline import drift
from serving import archive
from serving import server as server_module
from serving.client import Client, Prediction
from serving.lifecycle import launch
from tests.server.conftest import CONFIG, ROOT, free_offset, picture, run_cli
from tests.server.test_drift import save_watched
from tests.unit.page_reader import PageReader
from tests.until import until

NAME, WINDOW = "reported", 100


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server that logs all requests with their images."""
    root = tmp_path_factory.mktemp("report")
    shutil.copy(CONFIG, root)
    run = save_watched(root / "runs" / NAME).parent
    settings = ["handler.precision=fp32", "minWorkers=2", "maxWorkers=2", "handler.log=1", "handler.log_images=true"]
    archive.build(NAME, "1.0", run=run, store=root / "model_store", overrides=settings, rehearse=False)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(29_500))
    yield root
    server_module.stop(root=root)


@pytest.mark.skipif(
    importlib.util.find_spec("evidently") is None, reason=f"Evidently is missing: {distributions.INSTALL}"
)
def test_the_log_of_a_real_server_is_reported(home: Path) -> None:
    clean = [picture(seed) for seed in range(1000, 1000 + WINDOW)]
    blurred = [picture(seed, size=(9, 7)) for seed in range(2000, 2000 + WINDOW)]
    with Client(root=home) as client:
        for part in (clean, blurred):
            assert all(isinstance(answer, Prediction) for answer in client.predict_many(part, NAME))
    folder = launch.predictions(home) / NAME
    until(lambda: sum(1 for _ in segments.read(folder)) == 2 * WINDOW, 30)
    done = run_cli("pipeline.drift", NAME, root=home)
    assert done.returncode == 0, done.stderr
    sentence, history, page = done.stdout.splitlines()
    assert sentence.startswith("The last 200 images differ from those of validation (MMD²") and "sharpness" in sentence
    assert history.startswith("It began in the window from ") and history.endswith(" and persists since then.")
    assert page.startswith(f"{drift.FOLDER}/{NAME}.html (")
    reader = PageReader(home / drift.FOLDER / f"{NAME}.html")
    assert [row[2] for row in reader.rows["windows"][1:]] == ["input shift", "none"]
    assert len(reader.pictures["moved"]) == drift.SHOWN
    assert str(ROOT) not in reader.text
