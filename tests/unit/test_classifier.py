import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.classifier import Classifier
from handlers.errors import ArtifactError, BadImage, NoAnswer, RequestError, TooLarge
from handlers.images.decoding import decode
from handlers.images.limits import Limits
from handlers.network import torchscript
from handlers.preprocessing import Preprocess
from tests.unit.small_network import CLASSES, SmallNetwork, save_small, small_spec
from training.quantization import quantize


def png(seed: int, size: tuple[int, int] = (20, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("artifact") / "model.pt")


def test_probabilities_are_those_of_the_eager_network(path: Path) -> None:
    classifier = Classifier(path)
    torch.manual_seed(0)
    network, preprocess = SmallNetwork().eval(), Preprocess(small_spec().preprocess)
    images = [png(0), png(1, (16, 16)), png(2, (5, 90))]
    with torch.no_grad():
        logits = network(preprocess([decode(image) for image in images]))
    expected = (logits / small_spec().temperature).softmax(1)
    assert small_spec().temperature == 1.7
    probabilities = classifier.predict([x for x in classifier.decode(images) if isinstance(x, torch.Tensor)])
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
    assert probabilities.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_temperature_changes_how_sure_an_answer_is_and_not_which_class_is_best(
    precision: str, temperature: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network, spec = SmallNetwork().eval(), dataclasses.replace(small_spec(), temperature=temperature)
    torchscript.save(network, spec, tmp_path / "model.pt")
    calibration = torch.randn(16, *spec.preprocess.shape)
    torchscript.save_quantized(quantize(network, [calibration]), spec, tmp_path / "model.pt")
    classifier = Classifier(tmp_path / "model.pt", precision=precision)
    classifier.warm_up(8)  # the first batches are computed otherwise in bf16
    images = [x for x in classifier.decode([png(seed) for seed in range(8)]) if isinstance(x, torch.Tensor)]
    scaled = classifier.predict(images)
    classifier.spec = dataclasses.replace(spec, temperature=1.0)
    plain = classifier.predict(images)
    powers = plain.double() ** (1 / temperature)
    torch.testing.assert_close(scaled.double(), powers / powers.sum(1, keepdim=True), rtol=0, atol=1e-6)
    assert torch.equal(scaled.argmax(1), plain.argmax(1))


def test_answers_come_best_first_and_name_the_classes(path: Path) -> None:
    classifier = Classifier(path)
    for answer in classifier.classify([png(seed) for seed in range(5)]):
        assert isinstance(answer, dict)
        assert set(answer) == set(CLASSES)
        assert list(answer.values()) == sorted(answer.values(), reverse=True)
        assert sum(answer.values()) == pytest.approx(1, abs=1e-5)


def test_a_compiled_package_is_loaded_by_its_own_reader(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.pt2 does not exist; .* format=pt2 first"):
        Classifier(tmp_path / "model.pt2")


@pytest.mark.parametrize(("top_k", "labels"), [(1, 1), (2, 2), (3, 3), (100, 3)])
def test_top_k_may_be_more_than_there_are_classes(path: Path, top_k: int, labels: int) -> None:
    (answer,) = Classifier(path, top_k=top_k).classify([png(0)])
    assert isinstance(answer, dict)
    assert len(answer) == labels


def test_encode_takes_the_largest(path: Path) -> None:
    (answer,) = Classifier(path, top_k=2).encode(torch.tensor([[0.125, 0.625, 0.25]]))
    assert list(answer.items()) == [("bee", 0.625), ("cat", 0.25)]


def test_neighbours_do_not_change_an_answer(path: Path) -> None:
    classifier = Classifier(path, limits=Limits(max_pixels=5000))
    good = [png(seed) for seed in range(classifier.engine.sizes[-1] + 9)]
    alone = [classifier.classify([image])[0] for image in good]
    mixed: list[bytes] = []
    for image in good:
        mixed += [image, b"no image", png(0, (100, 100)), image[:40], b""]
    answers = classifier.classify(mixed)
    for single, batched in zip(alone, answers[::5], strict=True):
        assert isinstance(single, dict) and isinstance(batched, dict)
        assert batched == pytest.approx(single, abs=1e-5)
    for wrong, error in ((1, BadImage), (2, TooLarge), (3, BadImage), (4, BadImage)):
        assert {type(answer) for answer in answers[wrong::5]} == {error}


def test_an_error_does_not_hold_its_image_in_memory(path: Path) -> None:
    (answer,) = Classifier(path).classify([b"no image"])
    assert isinstance(answer, RequestError)
    assert answer.__traceback__ is None


def test_nothing_is_answered_with_nothing(path: Path) -> None:
    classifier = Classifier(path)
    assert classifier.classify([]) == []
    assert classifier.predict([]).shape == (0, 3)


def test_a_grey_artifact_takes_colour_images(tmp_path: Path) -> None:
    (answer,) = Classifier(save_small(tmp_path / "model.pt", colour="grey")).classify([png(0)])
    assert isinstance(answer, dict)


def test_threads_are_set_only_when_asked(path: Path) -> None:
    before = torch.get_num_threads()
    try:
        Classifier(path)
        assert torch.get_num_threads() == before
        Classifier(path, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_batch_that_the_memory_does_not_hold_goes_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(path)
    images = [png(seed) for seed in range(13)]
    expected = classifier.classify(images)
    run, room = classifier._run, 3

    def limited(batch: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch)

    monkeypatch.setattr(classifier, "_run", limited)
    for ours, theirs in zip(classifier.classify(images), expected, strict=True):
        assert isinstance(ours, dict) and isinstance(theirs, dict) and ours == pytest.approx(theirs, abs=1e-5)
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        classifier.classify(images)


def test_an_image_on_which_the_network_overflows_is_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(path)
    probabilities = classifier._probabilities

    def overflowing(outputs: torch.Tensor) -> torch.Tensor:
        rows = probabilities(outputs).clone()
        rows[1] = float("nan")
        return rows

    monkeypatch.setattr(classifier, "_probabilities", overflowing)
    first, second, third = classifier.classify([png(0), png(1), png(2)])
    assert isinstance(first, dict) and isinstance(third, dict)
    assert isinstance(second, NoAnswer) and second.code == 500
    assert str(second) == "the network overflows on this image in fp32: serve it in fp32"


def test_a_network_with_other_outputs_than_its_spec_is_refused(tmp_path: Path) -> None:
    torchscript.save(SmallNetwork(classes=7), small_spec(), tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"answers \(1, 7\), its spec has 3 classes"):
        Classifier(tmp_path / "model.pt")


def test_impossible_settings_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="top_k is 0"):
        Classifier(path, top_k=0)
    with pytest.raises(ValueError, match="threads is 0"):
        Classifier(path, threads=0)


@pytest.mark.parametrize("seed", range(3))
def test_real_or_generated_images_answer_the_same_alone_and_together(
    path: Path, real_data: Path | None, seed: int
) -> None:
    files = sorted((real_data / "fingers" / "test").glob("*.png"))[seed::97] if real_data else []
    images = [file.read_bytes() for file in files] or [png(100 * seed + image) for image in range(20)]
    classifier = Classifier(path)
    together = classifier.classify(images)
    for image, answer in zip(images, together, strict=True):
        (alone,) = classifier.classify([image])
        assert isinstance(alone, dict) and isinstance(answer, dict)
        assert answer == pytest.approx(alone, abs=1e-5)
