import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import golden
from handlers.classifier import Classifier
from handlers.golden import Golden, GoldenError
from handlers.images.decoding import decode as decode_image
from handlers.images.limits import Limits
from handlers.network import torchscript
from handlers.network.engine import WARM_UP, Engine
from handlers.preprocessing import Preprocess
from handlers.service import Service, load
from handlers.settings import Settings
from tests.unit.small_network import SmallNetwork, save_small, small_spec
from tests.unit.test_classifier import png
from tests.unit.test_handler import Worker
from training.cards import cards


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_small(tmp_path / "model.pt")


def kept(path: Path, **changes: Any) -> Path:
    """Write golden.json beside a model, with some of the second entry changed."""
    made = golden.of(Classifier(path), {f"{seed}.png": png(seed) for seed in range(3)})
    made[1] = dataclasses.replace(made[1], **changes)
    golden.write(made, path.with_name(golden.FILE))
    return path.with_name(golden.FILE)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_what_was_exported_is_answered_alike(path: Path, precision: str, tolerance: float) -> None:
    assert golden.check(Classifier(path, precision=precision), golden.read(kept(path))) <= tolerance


def test_a_worker_that_is_surer_or_resizes_otherwise_is_refused(path: Path) -> None:
    images, classifier = golden.read(kept(path)), Classifier(path)
    classifier.spec = dataclasses.replace(classifier.spec, temperature=1.0)
    with pytest.raises(GoldenError, match="a probability differs"):
        golden.check(classifier, images)
    other = Classifier(path)
    spec = dataclasses.replace(other.spec.preprocess, interpolation="bicubic")
    other.decoder.preprocess = Preprocess(spec)
    with pytest.raises(GoldenError, match="reaches the network with other pixels"):
        golden.check(other, images)


def test_golden_images_form_batches_of_the_size_that_is_warm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, sizes = Classifier(path), []
    predict = classifier.predict

    def count(images: list[torch.Tensor]) -> torch.Tensor:
        sizes.append(len(images))
        return predict(images)

    monkeypatch.setattr(classifier, "predict", count)
    images = golden.read(kept(path))
    golden.check(classifier, images, batch=2)
    golden.check(classifier, images)
    assert sizes == [2, 1, 3]


def test_golden_images_are_read_as_they_were_written(tmp_path: Path) -> None:
    whole = Golden("a.png", b"\x89P", (0.25, 0.75), (0.5, 0.5), b"\1\2", b"\3", (7, 9), drawn=True)
    bare = Golden("b.png", b"II", (1.0,))
    golden.write([whole, bare], tmp_path / golden.FILE)
    assert golden.read(tmp_path / golden.FILE) == [whole, bare]
    assert (tmp_path / golden.FILE).read_text().endswith("]\n")
    assert [whole.expected(precision) for precision in ("int8", "fp32", "bf16")] == [
        (0.5, 0.5),
        (0.25, 0.75),
        (0.25, 0.75),
    ]
    assert bare.expected("int8") == (1.0,), "of an archive without int8"
    assert [whole.judged("fp32"), whole.judged("bf16"), bare.judged("bf16")] == [True, False, True]


def test_a_golden_image_is_what_the_network_gets_and_answers(tmp_path: Path, path: Path) -> None:
    torch.manual_seed(1)
    torchscript.save(SmallNetwork(), small_spec(), tmp_path / "other.pt")
    classifier, other = Classifier(path), Classifier(tmp_path / "other.pt")
    images = {"a.png": png(0), "wide.jpg": cards(16)["wide.jpg"]}
    first, second = golden.of(classifier, images, int8=other, drawn=True)
    inputs = golden.decoded(classifier, list(images.values()))
    assert (first.name, first.image, first.size, first.drawn) == ("a.png", images["a.png"], (30, 20), True)
    assert first.probabilities == pytest.approx(golden.answers(classifier, [first.image])[0], abs=1e-6)
    assert first.int8 == pytest.approx(golden.answers(other, [first.image])[0], abs=1e-6) != first.probabilities
    assert first.pixels == inputs[0].numpy().tobytes() and first.whole is None
    full = classifier.decoder.preprocess.resize(decode_image(second.image))
    assert second.pixels == inputs[1].numpy().tobytes() and second.whole == full.numpy().tobytes()
    (plain,) = golden.of(classifier, {"a.png": png(0)})
    assert (plain.int8, plain.drawn) == (None, False)


def test_the_pixels_that_are_compared_are_spread_from_edge_to_edge() -> None:
    for side in (1, 2, 10, golden.SAMPLES, golden.SAMPLES + 1, 100):
        images = torch.arange(side * side).view(1, 1, side, side)
        sampled, count = golden.sample(images)[0, 0], min(side, golden.SAMPLES)
        places = sampled[0]
        assert sampled.shape == (count, count) and torch.equal(sampled, places[:, None] * side + places)
        assert (int(places[0]), int(places[-1])) == (0, side - 1)
        steps = places.diff()
        assert count == 1 or int(steps.max() - steps.min()) <= 1 <= int(steps.min())


def test_another_answer_says_which_image_and_by_how_much(path: Path) -> None:
    file = kept(path, probabilities=(0.5, 0.25, 0.25))
    for precision, end in (("fp32", "serve it"), ("bf16", r"serve it, or set handler\.precision to fp32")):
        with pytest.raises(GoldenError, match=rf"1\.png .* differs? by 0\.\d+, allowed in {precision} are .* {end}$"):
            golden.check(Classifier(path, precision=precision), golden.read(file))


def test_an_answer_that_is_no_number_is_not_allowed(path: Path) -> None:
    classifier = Classifier(path)
    classifier.engine.module = lambda batch: torch.full((len(batch), 3), torch.nan)
    with pytest.raises(GoldenError, match="differs by nan"):
        golden.check(classifier, golden.read(kept(path)))


def test_other_classes_and_unreadable_images_are_named(path: Path) -> None:
    with pytest.raises(GoldenError, match=r"1\.png has 2 classes, the network 3"):
        golden.check(Classifier(path), golden.read(kept(path, probabilities=(0.5, 0.5))))
    with pytest.raises(GoldenError, match="golden image 2 cannot be read"):
        golden.check(Classifier(path), golden.read(kept(path, image=b"no image")))


@pytest.mark.parametrize("damage", ["[{", "[{}]", "[1]", '[{"name": "a", "image": "?", "probabilities": []}]'])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / golden.FILE).write_text(damage)
    with pytest.raises(GoldenError, match="build the archive again"):
        golden.read(tmp_path / golden.FILE)


def test_a_worker_does_not_load_what_answers_otherwise(path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        file = kept(path)
        Worker(path.parent)
        document = json.loads(file.read_text())
        document[2]["probabilities"] = [0.2, 0.3, 0.5]
        file.write_text(json.dumps(document))
        with pytest.raises(GoldenError, match=r"2\.png"):
            Worker(path.parent)
    finally:
        torch.set_num_threads(threads)


def test_a_wrong_answer_is_told_where_every_class_is_unlikely(path: Path) -> None:
    """Of hundreds of classes none may reach 0.05: what two answers are apart counts, not one probability."""

    class Answers:
        def __init__(self, rows: torch.Tensor) -> None:
            self.rows = rows

        def __call__(self, batch: torch.Tensor) -> torch.Tensor:
            return self.rows[: len(batch)].log() * classifier.spec.temperature

    classifier = Classifier(path, precision="bf16")
    rows = torch.rand(16, 365, generator=torch.Generator().manual_seed(0)).pow(3)
    rows = rows / rows.sum(1, keepdim=True)
    near = (rows * (1 + 0.02 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)))).clamp_min(1e-9)
    expected = [Golden("a.png", png(0), tuple(rows[0].tolist()))]
    assert rows.max() < 0.05
    classifier.spec = dataclasses.replace(classifier.spec, classes=tuple(f"c{n}" for n in range(365)))
    classifier.engine.module = Answers(near)
    assert golden.check(classifier, expected) < 0.02
    classifier.engine.module = Answers(rows.flip(1))
    with pytest.raises(GoldenError, match=r"probabilities differ by 0\.[1-9]"):
        golden.check(classifier, expected)


def test_what_bf16_is_too_coarse_for_is_served_in_float32(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept(path)
    monkeypatch.setattr("handlers.network.precision.gains_from_bf16", lambda _: True)
    monkeypatch.setattr("handlers.tolerances.ROUNDED", 1e-9)
    threads = torch.get_num_threads()
    try:
        served = Service(path, {"handler": {"precision": "auto"}}, version="1")
        assert served.classifier.engine.precision == "fp32"
        assert "cannot serve in bf16: golden image 0.png is answered otherwise" in caplog.text
        with pytest.raises(GoldenError, match="allowed in bf16 are 1e-09"):
            Service(path, {"handler": {"precision": "bf16"}}, version="1")
        file = kept(path, probabilities=(0.9, 0.05, 0.05))
        with pytest.raises(GoldenError, match=r"1\.png .* allowed in fp32 are 0\.0001\. Export .* that serve it$"):
            Service(path, {"handler": {"precision": "auto"}}, version="1")
        assert file.is_file()
    finally:
        torch.set_num_threads(threads)


def test_what_is_held_to_the_golden_images_is_what_answers_requests(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchScript runs a network otherwise until it has seen a batch size a few times."""
    file = kept(path)
    runs: list[int] = []
    call = Engine.__call__

    def counted(engine: Engine, inputs: torch.Tensor) -> torch.Tensor:
        runs.append(len(inputs))
        return call(engine, inputs)

    def checked(classifier: Classifier, images: list[Golden], *, batch: int) -> float:
        assert images == golden.read(file) and batch == 4
        assert all(runs.count(size) >= WARM_UP for size in (1, 2, 4))
        runs.clear()
        return 0.0

    monkeypatch.setattr(Engine, "__call__", counted)
    monkeypatch.setattr(golden, "check", checked)
    load(path, Settings(), largest=4)
    assert not runs


def test_other_pixels_are_told_by_themselves(path: Path) -> None:
    image = golden.read(kept(path))[1]
    assert image.pixels is not None
    near = bytes(min(255, level + 1) for level in image.pixels)
    golden.check(Classifier(path), golden.read(kept(path, pixels=near)))  # another processor rounds
    for precision in ("fp32", "bf16"):
        with pytest.raises(GoldenError, match=r"1\.png reaches the network with other pixels .* differ by \d+ levels"):
            golden.check(Classifier(path, precision=precision), golden.read(kept(path, pixels=image.pixels[::-1])))
    with pytest.raises(GoldenError, match=r"1\.png has 3 pixels, the network's input 768"):
        golden.check(Classifier(path), golden.read(kept(path, pixels=b"abc")))


def test_what_a_gpu_decodes_in_full_is_compared_with_that(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(path)
    (image,) = golden.of(classifier, {"wide.jpg": cards(16)["wide.jpg"]}, drawn=True)
    assert image.pixels != image.whole is not None
    resize = classifier.decoder.preprocess.resize

    def decode(images: list[bytes]) -> list[torch.Tensor]:
        return [resize(decode_image(image)) for image in images]

    monkeypatch.setattr(classifier.decoder, "decode", decode)
    with pytest.raises(GoldenError, match="with other pixels"):
        golden.check(classifier, [image])
    monkeypatch.setattr(classifier.decoder, "whole", True)
    golden.check(classifier, [dataclasses.replace(image, probabilities=golden.answers(classifier, [image.image])[0])])


def test_one_answer_to_everything_is_refused_also_where_it_is_the_mean(path: Path) -> None:
    """Within the tolerance of each image by itself: only that the answers do not vary gives it away."""
    near = torch.tensor([[0.50, 0.3, 0.2], [0.52, 0.29, 0.19], [0.48, 0.31, 0.21]])
    images = golden.of(Classifier(path), {f"{seed}.png": png(seed) for seed in range(3)})
    expected = [
        dataclasses.replace(each, probabilities=tuple(row)) for each, row in zip(images, near.tolist(), strict=True)
    ]
    classifier = Classifier(path, precision="bf16")
    classifier.engine.module = lambda batch: torch.cat((near, near[:1])).log()
    golden.check(classifier, expected)
    classifier.engine.module = lambda batch: near.mean(0).log().expand(4, 3)
    with pytest.raises(GoldenError, match=r"log probabilities vary from image to image by 0\.0\d+ more or less"):
        golden.check(classifier, expected)


def test_another_best_class_is_refused_where_no_class_is_likely(path: Path) -> None:
    image = golden.read(kept(path))[0]
    many = tuple([0.02, 0.01] + [0.97 / 98] * 98)
    classes = [f"c{number}" for number in range(100)]
    swapped = dict(zip(classes, (0.01, 0.02, *many[2:]), strict=True))
    answered = dataclasses.replace(image, probabilities=many)
    with pytest.raises(GoldenError, match="another class is the most likely one"):
        golden.compare(answered, swapped, classes, "bf16")
    assert golden.compare(answered, dict(zip(classes, many, strict=True)), classes, "bf16") == 0
    classifier = Classifier(path, precision="bf16")
    answered = dataclasses.replace(answered, pixels=None, whole=None)
    classifier.engine.module = lambda batch: torch.tensor([many]).log().expand(len(batch), -1)
    golden.check(classifier, [answered])
    other = torch.tensor([[*swapped.values()]]).log()
    classifier.engine.module = lambda batch: other.expand(len(batch), -1)
    with pytest.raises(GoldenError, match="another class is the most likely one"):
        golden.check(classifier, [answered])


def test_an_answer_of_the_best_labels_alone_differs_by_what_is_known() -> None:
    image = Golden("a.png", b"", (0.6, 0.3, 0.1), int8=(0.2, 0.5, 0.3))
    classes = ("ant", "bee", "cat")
    assert golden.compare(image, {"ant": 0.6, "bee": 0.3}, classes, "fp32") == 0, "a cat is less likely than a bee"
    assert golden.compare(image, {"ant": 0.55, "bee": 0.3, "cat": 0.15}, classes, "bf16") == pytest.approx(0.05)
    assert golden.compare(image, {"bee": 0.5, "cat": 0.3, "ant": 0.2}, classes, "int8") == 0
    assert golden.compare(image, {"ant": 0.60009}, classes, "fp32") == pytest.approx(9e-5)
    with pytest.raises(GoldenError, match=r"a probability differs by 0\.2, allowed in fp32 are 0\.0001"):
        golden.compare(image, {"ant": 0.6, "cat": 0.1}, classes, "fp32")
    for answer in ({}, {"dog": 0.6}, {"ant": 1.1}, {"ant": -0.1}, {"ant": float("nan")}):
        with pytest.raises(GoldenError, match=r"a\.png is answered with what are no probabilities of its classes$"):
            golden.compare(image, answer, classes, "fp32")
    for others in (classes[:2], (*classes, "dog")):
        with pytest.raises(GoldenError, match=rf"a\.png has 3 classes, the network {len(others)}$"):
            golden.compare(image, {"ant": 0.6}, others, "fp32")


def test_int8_is_held_against_what_int8_answered(path: Path) -> None:
    images = golden.of(Classifier(path), {f"{seed}.png": png(seed) for seed in range(3)})
    rounded = [(0.1, 0.2, 0.7), (0.2, 0.7, 0.1), (0.7, 0.1, 0.2)]
    images = [dataclasses.replace(each, int8=row) for each, row in zip(images, rounded, strict=True)]
    classifier = Classifier(path)
    classifier.engine.precision = "int8"
    temperature = classifier.spec.temperature
    classifier.engine.module = lambda batch: temperature * torch.tensor((*rounded, rounded[0])).log()
    assert golden.check(classifier, images) < 1e-6
    with pytest.raises(GoldenError):
        golden.check(classifier, [dataclasses.replace(each, int8=None) for each in images])


def test_the_best_class_counts_where_the_second_is_far_behind() -> None:
    close, clear = Golden("a.png", b"", (0.45, 0.44, 0.11)), Golden("a.png", b"", (0.38, 0.22, 0.2, 0.2))
    classes = ("ant", "bee", "cat", "dog")
    assert golden.compare(close, {"bee": 0.45, "ant": 0.44, "cat": 0.11}, classes[:3], "bf16") < 0.02
    with pytest.raises(GoldenError, match="another class is the most likely one"):
        golden.compare(clear, {"bee": 0.31, "ant": 0.29, "cat": 0.2, "dog": 0.2}, classes, "bf16")
    two = Golden("a.png", b"", (0.4, 0.6))
    assert golden.compare(two, {"bee": 0.6, "ant": 0.4}, ("ant", "bee"), "fp32") == 0
    assert golden.compare(Golden("a.png", b"", (1.0,)), {"ant": 1.0}, ("ant",), "fp32") == 0
    sure = Golden("a.png", b"", (1.0, 0.0))
    assert golden.compare(sure, {"ant": 1.0, "bee": 0.0}, ("ant", "bee"), "fp32") == 0, "0 is a probability"


def test_a_difference_as_large_as_the_tolerance_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.tolerances.FP32", 0.25)
    assert golden.compare(Golden("a.png", b"", (0.5,)), {"ant": 0.25}, ("ant",), "fp32") == 0.25
    with pytest.raises(GoldenError, match="allowed in fp32 are"):
        golden.compare(Golden("a.png", b"", (0.5,)), {"ant": 0.2499}, ("ant",), "fp32")


def test_two_images_are_enough_to_vary_and_one_class_need_not() -> None:
    images = [Golden("a.png", b"", (0.52, 0.48)), Golden("b.png", b"", (0.44, 0.56))]
    golden._check_variation(images, [image.probabilities for image in images], "bf16")
    golden._check_variation(images[:1], [(0.1, 0.9)], "bf16")
    alike = [Golden("a.png", b"", (0.5, 0.5))] * 2
    golden._check_variation(alike, [(0.5, 0.5), (0.501, 0.499)], "bf16")  # less than a step of bf16
    with pytest.raises(GoldenError, match="vary from image to image by"):
        golden._check_variation(images, [(0.48, 0.52)] * 2, "bf16")
    golden._check_variation([Golden("a.png", b"", (1.0,))] * 2, [(1.0,)] * 2, "fp32")


def test_what_the_network_makes_of_drawn_images_counts_in_float32_alone() -> None:
    drawn = Golden("a.png", b"", (0.7, 0.2, 0.1), drawn=True)
    answer = {"ant": 0.1, "bee": 0.7, "cat": 0.2}
    assert golden.compare(drawn, answer, ("ant", "bee", "cat"), "bf16") == 0
    with pytest.raises(GoldenError, match="answered otherwise"):
        golden.compare(drawn, answer, ("ant", "bee", "cat"), "fp32")


def test_the_archives_of_older_releases_are_read_and_checked_by_their_answers(path: Path) -> None:
    file = kept(path)
    old = [
        {key: each[key] for key in ("name", "image", "probabilities", "int8")} for each in json.loads(file.read_text())
    ]
    file.write_text(json.dumps(old))
    images = golden.read(file)
    assert [(each.pixels, each.size, each.drawn) for each in images] == [(None, None, False)] * 3
    assert golden.check(Classifier(path), images) < 1e-5
    assert all(each.within(Limits(max_pixels=1)) for each in images)  # their size is not known


def test_images_beyond_the_limits_of_an_archive_are_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    threads = torch.get_num_threads()
    try:
        file = kept(path, probabilities=(0.5, 0.25, 0.25), size=(400, 300))
        assert [each.within(Limits(max_pixels=10_000)) for each in golden.read(file)] == [True, False, True]
        with pytest.raises(GoldenError, match=r"1\.png"):
            Service(path, {"minWorkers": 64}, version="1")
        Service(path, {"minWorkers": 64, "handler": {"max_pixels": 10_000}}, version="1")
        assert "not checked" not in caplog.text
        Service(path, {"minWorkers": 64, "handler": {"max_bytes": 1}}, version="1")
        assert "not checked: none of its 3 golden images is within handler.max_bytes=1 and" in caplog.text
    finally:
        torch.set_num_threads(threads)
