"""Test cards run every way through decoding and resizing, and a fault of each shows on one of them."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.images.decoder import Decoder
from handlers.images.decoding import decode
from handlers.images.limits import DEFAULT_LIMITS
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from handlers.tolerances import PIXELS
from training.cards import card, cards
from training.data.decoders import decode_and_resize

SIDES = (16, 64, 224)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


def spec(side: int, **changes: Any) -> PreprocessSpec:
    return PreprocessSpec(image_size=side, **changes)


@pytest.mark.parametrize("side", SIDES)
def test_they_are_of_many_forms_and_take_little_room(side: int) -> None:
    encoded = cards(side)
    shapes = {name: decode(image).shape for name, image in encoded.items()}
    assert len({shape[2] / shape[1] for shape in shapes.values()}) == len(shapes) == 5
    assert all(min(shapes[name][1:]) >= 2 * side for name in ("wide.jpg", "turned.jpg", "tall.png"))
    opened = {name: Image.open(io.BytesIO(image)) for name, image in encoded.items()}
    assert {each.format for each in opened.values()} == {"JPEG", "PNG"}
    assert {each.getexif().get(0x0112, 1) for each in opened.values()} == {1, 5, 6}
    assert sum(map(len, encoded.values())) < 200_000
    assert encoded == cards(side)


def test_no_side_and_no_colour_is_like_another() -> None:
    picture = card(64, 48).astype(int)
    for other in (picture[::-1], picture[:, ::-1], picture[::-1, ::-1], picture[..., ::-1]):
        assert np.abs(picture - other).mean() > 30
    grey = picture.mean(axis=2)
    assert all(np.abs(grey - other).mean() > 20 for other in (grey[::-1], grey[:, ::-1], grey[::-1, ::-1]))


@pytest.mark.parametrize("colour", ["rgb", "grey"])
@pytest.mark.parametrize("side", SIDES)
def test_a_large_card_shows_how_much_of_it_was_decoded(side: int, colour: Any) -> None:
    values = {"mean": (0.5,), "std": (0.25,)} if colour == "grey" else {}
    preprocess, image = Preprocess(spec(side, colour=colour, **values)), cards(side)["wide.jpg"]
    right = preprocess.resize(decode(image, colour=colour, smallest=side))
    for smallest in (None, side // 2):
        assert apart(right, preprocess.resize(decode(image, colour=colour, smallest=smallest))) > 2 * PIXELS


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_training_and_serving_decode_a_large_photograph_at_a_part_of_its_size(resize: Any) -> None:
    """Fixtures that are smaller than what the network takes never show it."""
    chosen = spec(64, resize=resize, crop_fraction=0.9)
    preprocess, image = Preprocess(chosen), cards(Preprocess(chosen).shortest_side)["wide.jpg"]
    right = preprocess.resize(decode(image, smallest=preprocess.shortest_side))
    assert apart(right, preprocess.resize(decode(image))) > PIXELS
    (served,) = Decoder(preprocess, DEFAULT_LIMITS, None).decode([image])
    assert isinstance(served, torch.Tensor) and torch.equal(served, right)
    assert torch.equal(decode_and_resize(image, chosen, DEFAULT_LIMITS), right)
