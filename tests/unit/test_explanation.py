"""Heat maps: class activation equals Grad-CAM, occlusion for any other network, and answers beside predictions."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from torch import nn

from handlers.classifier import Classifier
from handlers.errors import BadImage, BadRequest, Busy
from handlers.explanation import occlusion, overlay
from handlers.explanation.explainer import CAM, OCCLUSION, Explainer, Explanation
from handlers.network import torchscript
from handlers.requests.request import Field, RawRequest
from handlers.service import Service
from tests.unit.banked_network import save_banked
from tests.unit.pooled_network import SIZE, pooled_network, save_pooled
from tests.unit.small_network import CLASSES, SmallNetwork, save_small, small_spec
from tests.unit.test_classifier import png
from training.networks import build

IMAGE, OTHER = png(1, (40, 30)), png(2, (50, 60))


def explained(path: Path, image: bytes = IMAGE, label: str | None = None) -> Explanation:
    explanation = Explainer(Classifier(path), path).explain(image, label)
    assert isinstance(explanation, Explanation)
    return explanation


def test_class_activation_equals_grad_cam_of_the_eager_network(tmp_path: Path) -> None:
    path = save_pooled(tmp_path)
    network, classifier = pooled_network(), Classifier(path)
    (image,) = classifier.decode([IMAGE])
    assert isinstance(image, torch.Tensor)
    inputs = classifier.preprocess.normalize(image[None])
    grad_cams, peaks = LayerGradCam(network, network.body.layers), []
    for place, label in enumerate(CLASSES):
        grad_cam = grad_cams.attribute(inputs, place, relu_attributions=True)[0, 0].detach()
        explanation = explained(path, label=label)
        assert (explanation.method, explanation.label) == (CAM, label)
        assert explanation.heat.shape == (SIZE // 4, SIZE // 4)
        peaks.append(float(grad_cam.max()))
        torch.testing.assert_close(explanation.heat, grad_cam / (peaks[-1] or 1), rtol=1e-3, atol=1e-4)
    assert any(peak > 0 for peak in peaks)


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "resnet18d"])
def test_networks_with_mean_pooling_score_their_places(model: str, tmp_path: Path) -> None:
    options = {"channels": [8, 16, 24, 32], "stem_width": 8} if model == "resnet18d" else {}
    network = build({"kind": "timm", "model": model, "options": options}, 3, 3, 64).eval()
    torchscript.save(network, small_spec(size=64), tmp_path / "model.pt")
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores = torchscript.interpreted(torchscript.place_scores(torchscript.load(tmp_path / "model.pt")), inputs)
        torch.testing.assert_close(scores.mean((1, 2)) + network.head.bias, network(inputs), rtol=1e-3, atol=1e-4)


class Squared(SmallNetwork):
    """Logits that are no linear function of the mean of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, len(CLASSES))

    def embedding(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embedding(images)).square()
        return logits


def test_other_heads_are_explained_by_occlusion(tmp_path: Path) -> None:
    torchscript.save(Squared(), small_spec(), tmp_path / "squared.pt")
    vit = {"kind": "vit", "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    torchscript.save(build(vit, 3, 3, 16).eval(), small_spec(), tmp_path / "vit.pt")
    hidden, small = save_pooled(tmp_path / "hidden", hidden=[16]), save_small(tmp_path / "small.pt")
    banked = save_banked(tmp_path / "banked")
    for path in (tmp_path / "squared.pt", tmp_path / "vit.pt", hidden, small, banked):
        explanation = explained(path)
        assert explanation.method == OCCLUSION, path
        assert explanation.heat.shape == (occlusion.GRID, occlusion.GRID) and float(explanation.heat.max()) == 1


def test_a_package_compiled_ahead_of_time_has_no_features(tmp_path: Path) -> None:
    path = save_pooled(tmp_path)
    explanation = Explainer(Classifier(path), tmp_path / "model.pt2").explain(IMAGE)
    assert isinstance(explanation, Explanation) and explanation.method == OCCLUSION


def test_occlusion_finds_what_the_score_depends_on() -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 40:48, 8:16] = 255  # place (5, 1) of 8 x 8

    def scores(images: Any) -> torch.Tensor:
        return torch.stack([picture.float().sum() for picture in images])

    falls = occlusion.falls(image, scores, torch.zeros(3, dtype=torch.uint8))
    assert divmod(int(falls.argmax()), occlusion.GRID) == (5, 1)
    assert float(falls[0, 7]) == 0 and int((falls > 0).sum()) == 9
    assert int(image.sum()) == 3 * 64 * 255


def test_nothing_in_favour_of_a_label_gives_an_empty_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(occlusion, "falls", lambda *_: torch.full((8, 8), -1.0))
    explanation = explained(save_small(tmp_path / "model.pt"))
    assert float(explanation.heat.abs().max()) == 0


def test_the_label_and_its_probability_are_those_of_the_prediction(tmp_path: Path) -> None:
    path = save_pooled(tmp_path)
    classifier = Classifier(path)
    (answer,) = classifier.classify([IMAGE])
    assert isinstance(answer, dict)
    for number, (label, probability) in enumerate(answer.items()):
        explanation = explained(path, label=label if number else None)
        assert explanation.label == label
        assert explanation.probability == pytest.approx(probability)


def test_an_image_that_cannot_be_read_and_an_unknown_label(tmp_path: Path) -> None:
    path = save_pooled(tmp_path)
    explains = Explainer(Classifier(path), path)
    assert isinstance(explains.explain(b"no image"), BadImage)
    with pytest.raises(BadRequest, match=r"no label is 'd\\xe9e': ask for one of the 3 labels"):
        explains.explain(IMAGE, "dée")


def test_explanations_beyond_the_time_of_a_batch_are_busy(tmp_path: Path) -> None:
    path = save_small(tmp_path / "model.pt")
    explains = Explainer(Classifier(path), path)
    explains.allow(1e-9)
    assert isinstance(explains.explain(IMAGE), Explanation)  # the first one is always answered
    assert isinstance(explains.explain(IMAGE), Busy)


def test_a_picture_shows_the_heat_where_it_is() -> None:
    image = torch.full((1, 32, 32), 100, dtype=torch.uint8)
    heat = torch.zeros(4, 4)
    heat[3, 0] = 1
    with Image.open(io.BytesIO(overlay.png(image, heat))) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (32, 32), "RGB")
        pixels = np.asarray(picture).astype(int)
    assert (pixels[:8, 24:] == 100).all()
    red, green, blue = pixels[31, 0]
    assert red > 180 > 100 > blue and green > 180  # yellow, the end of the palette


def test_the_peak_between_two_equal_places_is_in_their_middle() -> None:
    heat = torch.zeros(7, 7)
    heat[2, 3:5] = 1
    row, column = divmod(int(overlay.enlarged(heat, 70).argmax()), 70)
    assert abs(row - 24.5) <= 0.5 and abs(column - 39.5) <= 0.5
    torch.testing.assert_close(overlay.enlarged(torch.full((7, 5), 0.3), 20), torch.ones(20, 20))
    assert not overlay.enlarged(torch.zeros(7, 7), 20).any()


def raw(image: bytes, **headers: str) -> RawRequest:
    return RawRequest(headers, [Field("body", image)])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    path = save_pooled(tmp_path_factory.mktemp("pooled"))
    return Service(path, {"handler": {"precision": "fp32"}, "minWorkers": 1, "batchSize": 4}, version="1.0")


def test_predictions_beside_explanations_are_as_without_them(service: Service) -> None:
    alone = [reply.document for reply in service.answer([raw(IMAGE), raw(OTHER)])]
    batch = [
        raw(IMAGE),
        raw(OTHER, explain="True"),
        raw(b"no image", explain="True"),
        raw(OTHER, explain="True", label="wasp"),
        raw(IMAGE, explain="True", accept="image/png", label="cat"),
        raw(OTHER),
    ]
    replies = service.answer(batch)
    assert [reply.code for reply in replies] == [200, 200, 400, 400, 200, 200]
    assert [replies[0].document, replies[5].document] == alone
    document = replies[1].document
    assert document == explained_document(service, OTHER)
    assert "no label is 'wasp'" in replies[3].document["message"]
    assert replies[4].headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(replies[4].body)) as picture:
        assert picture.size == (SIZE, SIZE)
    assert "content-type" not in replies[1].headers and json.loads(replies[1].body) == document


def explained_document(service: Service, image: bytes, label: str | None = None) -> dict[str, Any]:
    explanation = service.explainer.explain(image, label)
    assert isinstance(explanation, Explanation)
    document = explanation.document()
    assert set(document) == {"label", "probability", "method", "size", "map"}
    assert document["size"] == SIZE and len(document["map"]) == SIZE // 4
    assert min(map(min, document["map"])) >= 0 and max(map(max, document["map"])) in (0, 1)
    return document


def test_several_images_are_explained_in_order(service: Service) -> None:
    fields = [Field("a", IMAGE), Field("b", b"no image"), Field("c", OTHER), Field("label", b"bee", is_file=False)]
    headers = {"explain": "True", "content-type": "multipart/form-data; boundary=x"}
    (reply,) = service.answer([RawRequest(headers, fields)])
    first, error, last = reply.document["explanations"]
    assert [first, last] == [explained_document(service, image, "bee") for image in (IMAGE, OTHER)]
    assert error["error"]["code"] == 400


def test_a_request_for_more_explanations_than_a_batch_has_time_for_is_busy(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow = service.explainer.allow
    monkeypatch.setattr(service.explainer, "allow", lambda _: allow(1e-9))
    several = {"explain": "True", "content-type": "multipart/form-data; boundary=x"}
    requests = [raw(IMAGE), RawRequest(several, [Field("a", IMAGE), Field("b", OTHER)])]
    replies = service.answer(requests)
    assert [reply.code for reply in replies] == [200, 503]
    assert int(replies[1].headers["retry-after"]) >= 1


def test_the_network_for_explanations_is_loaded_when_one_is_asked_for(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from handlers.service import Service
from handlers.requests.request import Field, RawRequest
path = Path({str(save_pooled(tmp_path))!r})
service = Service(path, {{}}, version="1.0")
body = [Field("body", bytes.fromhex({IMAGE.hex()!r}))]
service.answer([RawRequest({{}}, body)])
assert "_network" not in vars(service.explainer)
(reply,) = service.answer([RawRequest({{"explain": "True"}}, body)])
assert reply.document["method"] == "cam" and "captum" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
