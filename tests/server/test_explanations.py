"""A real TorchServe explains predictions: heat maps as JSON or as a picture, in batches with predictions."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from handlers.classifier import Classifier
from handlers.explanation.explainer import Explainer, Explanation
from serving import archive
from serving.client import RequestRefused
from serving.store import model_store
from tests.server.conftest import RunningServer, picture, run_cli
from tests.server.test_requests import post
from tests.unit.pooled_network import SIZE, save_pooled

SETTINGS = ("batchSize=8", "maxBatchDelay=200", "handler.precision=fp32", "minWorkers=1")
IMAGES = [picture(seed) for seed in range(6)]
PATHS = ("/explanations/pooled", "/explanations/pooled/1.0", "/v1/models/pooled:explain")


@pytest.fixture(scope="module")
def expected(server: RunningServer) -> Iterator[list[Explanation]]:
    """Serve a network with mean pooling; return the explanations of `IMAGES` by its artifact."""
    run = server.root / "runs" / "pooled"
    path = save_pooled(run)
    explainer = Explainer(Classifier(path), path)
    explanations = [explainer.explain(image) for image in IMAGES]
    store = server.root / model_store.FOLDER
    built = archive.build("pooled", "1.0", run=run, store=store, overrides=SETTINGS, rehearse=False)
    with server.also_serving([built]):
        yield [explanation for explanation in explanations if isinstance(explanation, Explanation)]


def near(answer: httpx.Response, explanation: Explanation) -> bool:
    """Return whether an answer is that explanation: the sums of a batch of another size end in other digits."""
    document = explanation.document()
    return bool(answer.json() == document | {"probability": pytest.approx(explanation.probability, abs=1e-6)})


@pytest.mark.parametrize("path", PATHS)
def test_each_address_explains_the_first_label(server: RunningServer, expected: list[Explanation], path: str) -> None:
    answer = post(server, path, content=IMAGES[0])
    assert answer.status_code == 200 and near(answer, expected[0]), answer.text
    assert answer.headers["model-version"] == "1.0" and expected[0].method == "cam"


def test_explanations_and_predictions_share_batches(server: RunningServer, expected: list[Explanation]) -> None:
    def ask(number: int) -> tuple[httpx.Response, httpx.Response]:
        explained = post(server, PATHS[0], content=IMAGES[number])
        return explained, post(server, "/predictions/pooled", content=IMAGES[number])

    with ThreadPoolExecutor(len(IMAGES)) as pool:
        answers = list(pool.map(ask, range(len(IMAGES))))
    for (explained, predicted), explanation in zip(answers, expected, strict=True):
        assert near(explained, explanation)
        label, probability = next(iter(predicted.json().items()))
        assert label == explanation.label and probability == pytest.approx(explanation.probability, abs=1e-6)


def test_several_instances_get_a_list(server: RunningServer, expected: list[Explanation]) -> None:
    instances = [{"b64": base64.b64encode(image).decode()} for image in (IMAGES[0], b"no image")]
    first, error = post(server, PATHS[2], json={"instances": instances}).json()["explanations"]
    assert first["map"] == expected[0].document()["map"] and error["error"]["code"] == 400


def test_a_client_gets_the_map_or_the_picture(server: RunningServer, expected: list[Explanation]) -> None:
    explanation = server.client.explain(IMAGES[1], "pooled")
    assert (explanation.heat, explanation.version) == (expected[1].document()["map"], "1.0")
    assert server.client.explain(IMAGES[1], "pooled", "1.0", label="bee").label == "bee"
    assert post(server, PATHS[0], content=IMAGES[1], headers={"label": "bee"}).json()["label"] == "bee"
    assert server.client.explain(IMAGES[1], "shapes").method == "occlusion"
    with Image.open(io.BytesIO(server.client.explain_png(IMAGES[1], "pooled"))) as shown:
        assert (shown.format, shown.size) == ("PNG", (SIZE, SIZE))


def test_what_cannot_be_explained_is_refused(server: RunningServer, expected: list[Explanation]) -> None:
    with pytest.raises(RequestRefused, match="no label is 'wasp': ask for one of the 3 labels"):
        server.client.explain(IMAGES[0], "pooled", label="wasp")
    refused = post(server, PATHS[0], content=b"no image", headers={"Accept": "image/png"})
    assert refused.status_code == 400 and refused.json()["type"] == "BadImage"


def test_make_predict_writes_pictures(server: RunningServer, expected: list[Explanation]) -> None:
    folder = server.root / "explained"
    (folder / "more").mkdir(parents=True)
    for name, content in {"a.jpg": IMAGES[0], "more/b.jpg": IMAGES[1], "more/cut.jpg": IMAGES[2][:300]}.items():
        (folder / name).write_bytes(content)
    done = run_cli("serving.predict", "pooled", str(folder), "--explain", "heat", root=server.root)
    assert done.returncode == 1 and "2 of 3 heat maps written to heat" in done.stderr, done.stderr
    written = {path.relative_to(server.root / "heat").as_posix() for path in (server.root / "heat").rglob("*.png")}
    assert written == {"a.jpg.png", "more/b.jpg.png"}
    refused = run_cli("serving.predict", "pooled", str(folder), "--explain", "--offline", root=server.root)
    assert refused.returncode == 2 and "leave out --offline" in refused.stderr
