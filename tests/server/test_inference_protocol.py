"""KServe's own client asks a real TorchServe behind a real Envoy, in v1 and in v2, the Open Inference Protocol."""

import asyncio
import base64
import ssl
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferOutput, InferRequest, InferResponse, RESTConfig

from tests.server import gateways
from tests.server.conftest import ROOT, RunningServer, picture
from tests.server.gateways import RunningGateway
from tests.until import until

IMAGES = [picture(seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateways.running(tmp_path_factory.mktemp("gateway"), [server.root]) as running:
        yield running


def asked(
    gateway: RunningGateway, protocol: str, question: Callable[[InferenceRESTClient, str], Awaitable[Any]]
) -> Any:
    """Return what KServe's client answers to a question, with ann's key."""
    context = ssl.create_default_context(cafile=str(gateway.folder / "tls.crt"))

    async def ask() -> Any:
        config = RESTConfig(protocol=protocol, verify=context, auth=("ann", gateway.key))
        async with InferenceRESTClient(config) as client:
            return await question(client, f"https://localhost:{gateway.address.port}")

    return asyncio.run(ask())


def request(images: list[bytes], *, binary: bool) -> InferRequest:
    tensor = InferInput("image", [len(images)], "BYTES")
    if binary:
        tensor.set_data_from_numpy(np.array(images, dtype=object))
    else:
        tensor.data = [base64.b64encode(image).decode() for image in images]
    return InferRequest("shapes", [tensor], request_id="42")


@pytest.mark.parametrize("binary", [True, False])
def test_the_client_gets_tensors(gateway: RunningGateway, server: RunningServer, binary: bool) -> None:
    answer: InferResponse = asked(
        gateway, "v2", lambda client, url: client.infer(url, request(IMAGES, binary=binary), model_name="shapes")
    )
    assert (answer.model_name, answer.id) == ("shapes", "42")  # this client drops the version
    labels, probabilities = (output.as_numpy() for output in answer.outputs)
    for place, image in enumerate(IMAGES):
        expected = server.client.predict(image, "shapes").probabilities
        assert list(labels[place]) == list(expected)
        assert probabilities[place] == pytest.approx(list(expected.values()))


def test_the_client_gets_v1_as_before(gateway: RunningGateway, server: RunningServer) -> None:
    document = {"instances": [{"b64": base64.b64encode(IMAGES[0]).decode()}]}
    answer = asked(gateway, "v1", lambda client, url: client.infer(url, document, model_name="shapes"))
    assert answer["predictions"] == [server.client.predict(IMAGES[0], "shapes").probabilities]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_the_client_sees_readiness(gateway: RunningGateway, server: RunningServer, protocol: str) -> None:
    def ready(model: str) -> Any:
        return asked(gateway, protocol, lambda client, url: client.is_model_ready(url, model))

    assert asked(gateway, protocol, lambda client, url: client.is_server_live(url)) is True
    assert ready("shapes") is True and ready("digits") is True
    server.client.scale("digits", "2.0", 0)
    try:
        until(lambda: ready("digits") is False, 5)
        assert ready("shapes") is True
        if protocol == "v2":
            with pytest.raises(httpx.HTTPStatusError, match="503"):
                asked(gateway, protocol, lambda client, url: client.is_server_ready(url))
    finally:
        server.client.scale("digits", "2.0", 1)
    until(lambda: ready("digits") is True, 30)
    if protocol == "v2":
        assert asked(gateway, protocol, lambda client, url: client.is_server_ready(url)) is True


def test_what_cannot_be_read_fails_with_the_reason(gateway: RunningGateway) -> None:
    for images, reason in (([IMAGES[0], b"no image"], "image"), ([], "empty")):
        sent = request(images, binary=False)

        async def infer(client: InferenceRESTClient, url: str, sent: InferRequest = sent) -> Any:
            return await client.infer(url, sent, model_name="shapes")

        with pytest.raises(httpx.HTTPStatusError, match=f"{reason}.*'400 ") as refused:
            asked(gateway, "v2", infer)
        assert refused.value.response.json()["error"]


def test_metadata_is_that_of_the_model_and_needs_a_key(gateway: RunningGateway) -> None:
    def get(path: str, **options: Any) -> httpx.Response:
        return gateway.session.get(path, **options)

    auth = ("ann", gateway.key)
    described = get("/v2/models/shapes", auth=auth).json()
    assert (described["name"], described["versions"]) == ("shapes", ["1.0"])
    answered = gateway.session.post(
        "/v2/models/shapes/versions/1.0/infer", json=request(IMAGES[:1], binary=False).to_rest()[0], auth=auth
    ).json()
    assert answered["model_version"] == "1.0"
    outputs = {output["name"]: (output["datatype"], len(output["shape"])) for output in described["outputs"]}
    for output in answered["outputs"]:
        assert outputs[output["name"]] == (output["datatype"], len(output["shape"]))
        assert InferOutput(output["name"], output["shape"], output["datatype"], output["data"]).as_numpy() is not None
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert get("/v2", auth=auth).json()["version"] == version
    assert [get(path).status_code for path in ("/v2", "/v2/models/shapes", "/v2/models/shapes/infer")] == [401] * 3
    assert gateway.session.post("/v2/models/shapes/infer", content=b"{}").status_code == 401
    absent = gateway.session.post("/v2/models/absent/infer", content=b"{}", auth=auth)
    assert absent.status_code == 404
