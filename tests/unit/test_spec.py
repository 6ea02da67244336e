"""What a network is told of its images: which values are allowed, and the document that travels with the weights."""

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
    images = PreprocessSpec(image_size=9, resize="crop", crop_fraction=0.5, **GREY)  # type: ignore[arg-type]
    return Spec(preprocess=images, classes=("b", "a"), network="cnn", provenance={"commit": "abc"})


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
    document = {**json.loads(spec().to_json()), "schema_version": 2}
    with pytest.raises(
        ValueError, match=r"^spec\.json has schema version 2, this code reads up to 1: update Sightline$"
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
