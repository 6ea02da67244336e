"""Batches are decoded one ahead of whoever takes them, and come in their order whatever happens."""

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from handlers.classifier import Classifier
from handlers.errors import BadImage
from handlers.images.decoder import Decoded
from handlers.images.decoding import Buffer
from handlers.images.prefetch import Prefetcher
from handlers.network.precision import by_speed
from synthetic import places365
from tests.unit.small_network import save_small

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
    for number, (image,) in enumerate(Prefetcher(decoder, device)(batches(8))):
        assert isinstance(image, torch.Tensor) and image.flatten().tolist() == 4 * [number]
        if number < 7:
            assert decoder.begun[number + 1].wait(LONGEST), "it waits for whoever takes them"
        assert not any(each.is_set() for each in decoder.begun[number + 2 :])


def test_nothing_is_nothing(device: torch.device) -> None:
    ahead = Prefetcher(Counting(device), device)
    assert list(ahead([])) == [] and ahead.parts([]) == []


def test_a_batch_is_cut_into_parts(device: torch.device) -> None:
    ahead = Prefetcher(Counting(device), device, 3)
    images = [bytes([number]) for number in range(7)]
    assert ahead.parts(images) == [images[:3], images[3:6], images[6:]]


def test_a_failure_comes_where_its_batch_would_and_costs_later_calls_nothing(device: torch.device) -> None:
    ahead = Prefetcher(Counting(device, bad=2), device)
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
        classifier.ahead = Prefetcher(classifier.decoder.decode, device, part)
        for found in (classifier.classify(images), next(iter(classifier.classify_all([images])))):
            assert isinstance(found[4], BadImage) and len(found) == 9
            for ours, theirs in zip(found[:4] + found[5:], expected[:4] + expected[5:], strict=True):
                assert ours == pytest.approx(theirs, abs=1e-2)
    assert [len(each) for each in classifier.classify_all([images, [], images[:2]])] == [9, 0, 2]


def test_what_was_decoded_is_there_when_it_is_yielded(device: torch.device) -> None:
    def decode(batch: Sequence[Buffer]) -> list[Decoded]:
        if device.type == "cuda":
            torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call] # cycles: a tenth of a second
        return [torch.full((4096, 4096), int(bytes(batch[0])), dtype=torch.int32, device=device)]

    for number, (image,) in enumerate(Prefetcher(decode, device)(batches(4))):
        assert isinstance(image, torch.Tensor) and int(image.min()) == int(image.max()) == number


@pytest.mark.parametrize("rests", [True, False], ids=["rest", "broken off"])
def test_what_is_being_decoded_is_waited_for(device: torch.device, rests: bool) -> None:
    decoder, held = Counting(device), threading.Event()

    def slowly(batch: Sequence[Buffer]) -> list[Decoded]:
        decoded = decoder(batch)
        assert bytes(batch[0]) == b"0" or held.wait(LONGEST)
        return decoded

    ahead = Prefetcher(slowly, device)
    found = ahead(batches(2))
    next(found)
    timer = threading.Timer(0.5, held.set)
    timer.start()
    waits = ahead.wait_idle if rests else found.close  # type: ignore[attr-defined]
    waits()
    assert held.is_set()
    timer.join()


def test_a_dropped_classifier_frees_its_memory_at_once(tmp_path: Path, device: torch.device) -> None:
    save_small(tmp_path / "model.pt")
    classifier = Classifier(tmp_path / "model.pt", device=device, precision=by_speed(device)[0])
    if classifier.ahead is None:  # on a CPU
        classifier.ahead = Prefetcher(classifier.decoder.decode, device)
    classifier.classify([places365.image(0, 0, 1, 0, 64)])
    gone = weakref.ref(classifier)
    gc.disable()  # which would find what keeps itself, some time
    try:
        del classifier
        assert gone() is None
    finally:
        gc.enable()


def test_the_thread_is_warmed_up_too(tmp_path: Path, device: torch.device) -> None:
    save_small(tmp_path / "model.pt")
    classifier = Classifier(tmp_path / "model.pt", device=device)
    decode = Mock(wraps=classifier.decoder.decode)
    classifier.ahead = Prefetcher(decode, device, 3)
    classifier.warm_up(4)
    assert [len(call.args[0]) for call in decode.call_args_list] == [3, 1]


def test_an_image_that_finds_no_memory_beside_the_decoder_is_tried_again(
    tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_small(tmp_path / "model.pt")
    classifier = Classifier(tmp_path / "model.pt", device=device, precision=by_speed(device)[0])
    classifier.ahead = Prefetcher(classifier.decoder.decode, device)
    image = places365.image(0, 0, 1, 0, 64)
    expected, run, full = classifier.classify([image]), classifier._run, True

    def once(batch: Sequence[torch.Tensor]) -> torch.Tensor:
        nonlocal full
        if full:
            full = False
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch)

    monkeypatch.setattr(classifier, "_run", once)
    wait_idle = Mock(wraps=classifier.ahead.wait_idle)
    monkeypatch.setattr(classifier.ahead, "wait_idle", wait_idle)
    assert classifier.classify([image]) == expected and not full
    wait_idle.assert_called_once()
