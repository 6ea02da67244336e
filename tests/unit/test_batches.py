import threading
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest
import torch

from training.data import batches as batches_module
from training.data.batches import Batches, DeviceBatches, Joined, Rows


def data(rows: list[int], copies: int = 0) -> Joined:
    """Images whose pixels all say their row; copies say 100 and more."""
    images = np.arange(50, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    labels = np.arange(50, dtype=np.int64) + 1000
    transformed = np.arange(100, 100 + copies, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    others = np.arange(copies, dtype=np.int64) + 1100
    return Joined(((images, labels, np.array(rows)), (transformed, others, np.arange(copies))))


def pixels(batches: Batches) -> list[list[int]]:
    return [images[:, 0, 0, 0].tolist() for images, _ in batches]


def test_validation_comes_in_order_and_whole() -> None:
    batches = Batches(data([4, 2, 9, 30, 7]), 2)
    assert pixels(batches) == [[4, 2], [9, 30], [7]]
    assert len(batches) == 3


def test_labels_stay_with_their_images() -> None:
    for images, labels in Batches(data(list(range(0, 50, 3)), copies=7), 4, seed=1):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert torch.equal(images[:, 0, 0, 0].long() + 1000, labels)


def test_each_epoch_has_an_order_of_its_own_that_comes_again() -> None:
    epoch = 0
    batches = Batches(data(list(range(40))), 8, seed=3, epoch=lambda: epoch)
    first = pixels(batches)
    again = pixels(batches)
    epoch = 1
    other = pixels(batches)
    assert first == again != other
    assert sorted(chain(*first)) == sorted(chain(*other)) == list(range(40))
    assert pixels(Batches(data(list(range(40))), 8, seed=4)) != first


@pytest.mark.parametrize(("rows", "copies", "size"), [(range(0, 50, 3), 7, 4), (range(3), 0, 8), (range(40), 10, 5)])
def test_what_lies_on_the_device_comes_as_what_is_sent_there(
    rows: range, copies: int, size: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "SENT", 6)
    epoch = 0
    chosen = data(list(rows), copies)
    sent = Batches(chosen, size, seed=2, epoch=lambda: epoch)
    resident = DeviceBatches(chosen, size, device, seed=2, epoch=lambda: epoch)
    while epoch < 2:
        for (ours, labels), (theirs, others) in zip(resident, sent, strict=True):
            assert ours.device.type == labels.device.type == device.type and ours.dtype == torch.uint8
            assert torch.equal(ours.cpu(), theirs) and torch.equal(labels.cpu(), others)
        epoch += 1
    assert len(resident) == len(sent)


def test_images_lie_on_the_device_where_they_leave_half_of_its_memory() -> None:
    chosen = data(list(range(10)))  # of 3 bytes each
    assert DeviceBatches.fits(chosen, 60) and not DeviceBatches.fits(chosen, 59)


def test_a_last_batch_that_is_not_full_is_left_out_of_training() -> None:
    batches = Batches(data(list(range(10))), 4, seed=0)
    assert [len(batch) for batch in pixels(batches)] == [4, 4] and len(batches) == 2
    assert [len(batch) for batch in pixels(Batches(data([1, 2, 3]), 8, seed=0))] == [3]


def test_the_epoch_is_asked_for_when_the_first_batch_is_wanted() -> None:
    epochs = iter((5, 6))
    iterator = iter(Batches(data([1, 2]), 2, seed=0, epoch=lambda: next(epochs)))
    assert next(epochs) == 5
    next(iterator)
    assert list(epochs) == []


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    iterator = iter(Batches(data(list(range(50))), 2, seed=0, prefetch=2))
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_fails_in_the_thread_fails_here() -> None:
    class Broken(Joined):
        def take(self, positions: Rows) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
            if positions[0] > 0:
                raise OSError("the disk is gone")
            return super().take(positions)

    batches = iter(Batches(Broken(data([4, 2, 9]).parts), 2, prefetch=2))
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
