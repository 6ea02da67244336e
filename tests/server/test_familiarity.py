"""A real TorchServe says of each image how familiar it is, in the answer of its own request."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from handlers.classifier import Classifier
from handlers.requests.labels import Labels, familiarity_header, shown
from serving import archive
from serving.store import model_store
from tests.server.conftest import RunningServer, run_cli
from tests.server.test_requests import post
from tests.unit.banked_network import save_banked
from tests.unit.test_classifier import png

SETTINGS = ("batchSize=8", "maxBatchDelay=100", "handler.precision=fp32", "minWorkers=1")
HEADER = "x-image-familiarity"


def black() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "PNG")
    return file.getvalue()


IMAGES = [black(), *(png(seed) for seed in range(30, 41))]


@pytest.fixture(scope="module")
def familiar(server: RunningServer) -> Iterator[list[float]]:
    """Serve a model with a bank; return the familiarity of `IMAGES` by its artifact."""
    run = server.root / "runs" / "familiar"
    answers = Classifier(save_banked(run)).classify(IMAGES)
    store = server.root / model_store.FOLDER
    built = archive.build("familiar", "1.0", run=run, store=store, overrides=SETTINGS, rehearse=False)
    with server.also_serving([built]):
        yield [answer.familiarity or 0.0 for answer in answers if isinstance(answer, Labels)]


def test_each_answer_of_a_batch_has_the_familiarity_of_its_image(server: RunningServer, familiar: list[float]) -> None:
    def ask(image: bytes) -> httpx.Response:
        return post(server, "/predictions/familiar", content=image)

    assert len({shown(value) for value in familiar}) > len(IMAGES) // 2 and familiar[0] == 0
    with ThreadPoolExecutor(len(IMAGES)) as pool:
        answers = list(pool.map(ask, IMAGES))
    assert [answer.headers[HEADER] for answer in answers] == [familiarity_header([value]) for value in familiar]
    refused = ask(b"no image")
    assert refused.status_code == 400 and HEADER not in refused.headers
    assert HEADER not in post(server, "/predictions/shapes", content=IMAGES[1]).headers


def test_kserve_entries_have_it_on_request(server: RunningServer, familiar: list[float]) -> None:
    instances = [{"b64": base64.b64encode(image).decode()} for image in (*IMAGES[:3], b"no image")]
    path = "/v1/models/familiar:predict"
    plain = post(server, path, json={"instances": instances})
    asked = post(server, path, json={"instances": instances}, headers={"familiarity": "true"})
    assert plain.headers[HEADER] == asked.headers[HEADER] == familiarity_header([*familiar[:3], None])
    labels, entries = plain.json()["predictions"], asked.json()["predictions"]
    assert entries[:3] == [
        {"labels": label, "familiarity": shown(value)} for label, value in zip(labels[:3], familiar, strict=False)
    ]
    assert set(entries[3]) == {"error"}
    assert post(server, path, json={"instances": instances}, headers={"familiarity": "yes"}).status_code == 400


def test_the_client_and_make_predict_show_it(server: RunningServer, familiar: list[float]) -> None:
    assert server.client.predict(IMAGES[1], "familiar").familiarity == shown(familiar[1])
    assert server.client.predict(IMAGES[1], "shapes").familiarity is None
    folder = server.root / "unlike"
    folder.mkdir()
    (folder / "black.png").write_bytes(IMAGES[0])
    for arguments in ((), ("--offline",)):
        done = run_cli("serving.predict", "familiar", str(folder), *arguments, root=server.root)
        assert done.returncode == 0 and "0.000 unfamiliar" in done.stdout, done.stderr
