"""Batches are decoded one ahead of whoever takes them, and come in their order whatever happens."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from handlers.ahead import Ahead
from handlers.classifier import Classifier
from handlers.decoder import Decoded
from handlers.decoding import Buffer
from handlers.errors import BadImage
from handlers.precision import by_speed
from tests.unit.small_network import save_small
from training.generate import places365

LONGEST = 30.0  # seconds


class Counting:
    """A decoder that says how many batches it has begun; batch `bad` fails."""

    def __init__(self, device: torch.device, bad: int = -1) -> None:
        self.device, self.bad = device, bad
        self.begun = [threading.Event() for _ in range(8)]

    def __call__(self, batch: Sequence[Buffer]) -> list[Decoded]:
        number = int(bytes(batch[0]))
        self.begun[number].set()
        if number == self.bad:
            raise RuntimeError(f"batch {number}")
        return [torch.full((2, 2), number, device=self.device)]


def batches(count: int) -> Iterator[list[bytes]]:
    return ([str(number).encode()] for number in range(count))


def test_the_next_batch_is_decoded_while_one_is_used_and_no_more_than_that(device: torch.device) -> None:
    decoder = Counting(device)
    for number, (image,) in enumerate(Ahead(decoder, device)(batches(8))):
        assert isinstance(image, torch.Tensor) and image.flatten().tolist() == 4 * [number]
        if number < 7:
            assert decoder.begun[number + 1].wait(LONGEST), "it waits for whoever takes them"
        assert not any(each.is_set() for each in decoder.begun[number + 2 :])


def test_nothing_is_nothing(device: torch.device) -> None:
    ahead = Ahead(Counting(device), device)
    assert list(ahead([])) == [] and ahead.parts([]) == []


def test_a_batch_is_cut_into_parts(device: torch.device) -> None:
    ahead = Ahead(Counting(device), device, 3)
    images = [bytes([number]) for number in range(7)]
    assert ahead.parts(images) == [images[:3], images[3:6], images[6:]]


def test_a_failure_comes_where_its_batch_would_and_costs_later_calls_nothing(device: torch.device) -> None:
    ahead = Ahead(Counting(device, bad=2), device)
    found = ahead(batches(5))
    assert len(list(itertools.islice(found, 2))) == 2
    with pytest.raises(RuntimeError, match="batch 2"):
        next(found)
    broken_off = ahead(batches(2))
    next(broken_off)
    broken_off.close()  # type: ignore[attr-defined]
    assert len(list(ahead(batches(2)))) == 2


def test_a_classifier_answers_in_parts_as_it_does_at_once(tmp_path: Path, device: torch.device) -> None:
    save_small(tmp_path / "model.pt")
    classifier = Classifier(tmp_path / "model.pt", device=device, precision=by_speed(device)[0])
    images = [places365.image(0, number, 1, 0, 64 + number) for number in range(9)]
    images[4] = images[4][:200]
    classifier.ahead = None
    expected = classifier.classify(images)
    for part in (2, 4, 64):
        classifier.ahead = Ahead(classifier.decode, device, part)
        for found in (classifier.classify(images), next(iter(classifier.classify_all([images])))):
            assert isinstance(found[4], BadImage) and len(found) == 9
            for ours, theirs in zip(found[:4] + found[5:], expected[:4] + expected[5:], strict=True):
                assert ours == pytest.approx(theirs, abs=1e-2)
    assert [len(each) for each in classifier.classify_all([images, [], images[:2]])] == [9, 0, 2]
