"""What a network is told of its images: which values are allowed, and the document that travels with the weights."""

import dataclasses
import json
import re
from typing import Any

import pytest

from handlers.spec import PreprocessSpec, Spec

GREY = {"colour": "grey", "mean": (0.5,), "std": (0.5,)}


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ({"image_size": 1}, (3, 1, 1)),
        ({"image_size": 7, "resize": "crop"}, (3, 7, 7)),
        ({"image_size": 5, **GREY}, (1, 5, 5)),
        ({"image_size": 8, "crop_fraction": 0.01, "std": (0.01, 2.0, 1e-9)}, (3, 8, 8)),
    ],
)
def test_a_spec_has_the_shape_of_one_input(values: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert PreprocessSpec(**values).shape == shape


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 0}, "image_size is 0, must be at least 1"),
        ({"resize": "fit"}, "resize is 'fit', must be 'squash' or 'crop'"),
        ({"crop_fraction": 0}, "crop_fraction is 0, must be in (0, 1]"),
        ({"crop_fraction": 1.01}, "crop_fraction is 1.01, must be in (0, 1]"),
        ({"interpolation": "lanczos"}, "interpolation is 'lanczos', must be 'bilinear' or 'bicubic'"),
        ({"colour": "red"}, "colour is 'red', must be 'rgb' or 'grey'"),
        ({"mean": (0.5,)}, "mean has 1 values, colour 'rgb' needs 3"),
        ({"std": (0.5,) * 4}, "std has 4 values, colour 'rgb' needs 3"),
        ({**GREY, "std": (0.5,) * 3}, "std has 3 values, colour 'grey' needs 1"),
        ({"std": (0.5, 0, 0.5)}, "std is (0.5, 0, 0.5), must be above 0"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PreprocessSpec(**{"image_size": 4, **values})


def spec() -> Spec:
    images = PreprocessSpec(
        image_size=9, resize="crop", crop_fraction=0.5, interpolation="bicubic", colour="grey", mean=(0.5,), std=(0.5,)
    )
    return Spec(preprocess=images, classes=("b", "a"), network="cnn", temperature=1.7, provenance={"commit": "abc"})


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_divides(temperature: float) -> None:
    with pytest.raises(ValueError, match=rf"^temperature is {temperature}, must be a finite number above 0$"):
        dataclasses.replace(spec(), temperature=temperature)
    document = {**json.loads(spec().to_json()), "temperature": temperature}
    with pytest.raises(ValueError, match=r"^temperature is"):
        Spec.from_json(json.dumps(document))


def test_a_document_names_what_is_as_by_default() -> None:
    plain = Spec(preprocess=PreprocessSpec(image_size=9), classes=("a",), network="cnn")
    document = json.loads(plain.to_json())
    assert document["preprocess"]["interpolation"] == "bilinear"
    assert document["temperature"] == 1.0 and document["schema_version"] == 2


def test_a_document_of_the_first_schema_is_bilinear_and_as_sure_as_its_network() -> None:
    document = json.loads(spec().to_json())
    del document["preprocess"]["interpolation"], document["temperature"]
    bilinear = dataclasses.replace(spec().preprocess, interpolation="bilinear")
    first = Spec.from_json(json.dumps({**document, "schema_version": 1}))
    assert first == dataclasses.replace(spec(), preprocess=bilinear, temperature=1.0)
    assert json.loads(first.to_json())["schema_version"] == 2
    with pytest.raises(ValueError, match=r"^spec\.json is not complete: 'temperature'$"):
        Spec.from_json(json.dumps(document))
    del document["preprocess"]
    with pytest.raises(ValueError, match=r"^spec\.json is not complete: 'preprocess'$"):
        Spec.from_json(json.dumps({**document, "schema_version": 1}))


def test_a_document_is_read_as_it_was_written() -> None:
    assert Spec.from_json(spec().to_json()) == spec()
    keys = list(json.loads(spec().to_json()))
    assert keys == sorted(keys) and '\n  "classes": [\n    "b"' in spec().to_json()


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.0])
def test_a_document_of_no_schema_is_refused(version: Any) -> None:
    document = {**json.loads(spec().to_json()), "schema_version": version}
    with pytest.raises(ValueError, match=r"^spec\.json has no schema_version: it was not written by Sightline"):
        Spec.from_json(json.dumps(document))


def test_a_document_of_a_later_schema_asks_for_a_later_sightline() -> None:
    document = {**json.loads(spec().to_json()), "schema_version": 3}
    with pytest.raises(
        ValueError, match=r"^spec\.json has schema version 3, this code reads up to 2: update Sightline$"
    ):
        Spec.from_json(json.dumps(document))


@pytest.mark.parametrize("name", ["preprocess", "classes", "network", "provenance"])
def test_a_document_that_lacks_something_says_what(name: str) -> None:
    document = json.loads(spec().to_json())
    del document[name]
    with pytest.raises(ValueError, match=rf"^spec\.json is not complete: '{name}'$"):
        Spec.from_json(json.dumps(document))


@pytest.mark.parametrize("name", ["mean", "std", "image_size"])
def test_preprocessing_that_lacks_something_says_what(name: str) -> None:
    document = json.loads(spec().to_json())
    del document["preprocess"][name]
    with pytest.raises(ValueError, match=rf"^spec\.json is not complete: .*'{name}'$"):
        Spec.from_json(json.dumps(document))
