"""Many images at once on the CPU: side by side, but the largest one after the other."""

import threading

import pytest
import torch

from handlers.images import decoder
from handlers.images.decoder import Decoder
from handlers.images.limits import DEFAULT_LIMITS
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from tests.unit.test_classifier import png
from tests.unit.test_gpu_decoder import jpeg

IMAGES = [jpeg(1), png(1, (90, 70)), jpeg(2, mode="CMYK"), jpeg(3), png(2, (90, 70)), jpeg(4)]


@pytest.mark.parametrize(("heavy", "at_once", "patience"), [(2**24, 3, 10.0), (90 * 70 - 1, 1, 0.05)])
def test_the_largest_are_decoded_one_after_the_other(
    heavy: int, at_once: int, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "HEAVY_PIXELS", heavy)
    ours = Decoder(Preprocess(PreprocessSpec(image_size=32)), DEFAULT_LIMITS, 3)
    resize, lock = ours.preprocess.resize, threading.Lock()
    running, most = 0, 0
    all_run = threading.Event()

    def beside_others(image: torch.Tensor) -> torch.Tensor:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                all_run.set()
        all_run.wait(patience)  # short for the largest: no event says that no other one begins
        with lock:
            running -= 1
        return resize(image)

    monkeypatch.setattr(ours.preprocess, "resize", beside_others)
    assert all(isinstance(each, torch.Tensor) for each in ours.decode(IMAGES))
    assert most == at_once
    assert all(isinstance(each, torch.Tensor) for each in ours.decode(IMAGES)), "nobody holds the lock any more"
