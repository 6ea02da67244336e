"""Encoded images to images of the network's size, many at once, on a GPU."""

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from handlers import tolerances
from handlers.device import out_of_memory_errors
from handlers.images import nvjpeg
from handlers.images.costs import ON_DEVICE, Cost
from handlers.images.decoder import Decoded, Decoder
from handlers.images.decoding import Buffer
from handlers.preprocessing import Preprocess

PIXELS = 2**27  # of images that are decoded in one call: 400 MB, and five times that while they are resized


class DeviceDecoder:
    """Decodes on the GPU the JPEG files that it can read, and with `others`, on the CPU, all other images meanwhile.

    Args:
        others: the decoder on the CPU; it also reports an image's error.
        preprocess: gives the size, on the GPU.
        dtype: of the computation while images are resized.
    """

    whole, tolerance = True, tolerances.PIXELS_NVJPEG  # as a `Decoder` has them

    def __init__(self, others: Decoder, preprocess: Preprocess, dtype: torch.dtype = torch.float32) -> None:
        self.others, self.preprocess, self.dtype = others, preprocess, dtype
        self.limits = others.limits
        self._beside = ThreadPoolExecutor(1, "beside")
        fault = nvjpeg.fault_of(preprocess.mean.device)
        self._decodes = not fault
        if fault:
            logging.getLogger(__name__).warning("falling back to CPU decoding of JPEG files: %s", fault)

    def cost(self, image: Buffer) -> Cost:
        """Return the cost of an image; raises a RequestError for an error in its header."""
        pixels = self._pixels_on_gpu(image)
        if pixels is None:
            return self.others.cost(image)
        return Cost(pixels, ON_DEVICE.seconds(pixels, len(image)))

    def allow(self, seconds: float) -> None:
        """Limit the seconds of decoding on the CPU from now on: images that come later are Busy."""
        self.others.allow(seconds)

    def decode(self, images: Sequence[Buffer]) -> list[Decoded]:
        """Return, for each encoded image, uint8 of shape (C, S, S) on the device, or its error."""
        pixels = [self._pixels_on_gpu(image) for image in images]
        on_cpu = [place for place, count in enumerate(pixels) if count is None]
        # The decoder on the CPU does not touch the GPU: only its results are sent there, in one piece.
        beside = self._beside.submit(self.others.decode, [images[place] for place in on_cpu]) if on_cpu else None
        results: dict[int, Decoded] = {}
        for part in _parts(pixels):
            results |= self._on_device({place: images[place] for place in part})
        if beside is not None:
            results |= self._uploaded(on_cpu, beside.result())
        results |= self._fall_back(images, results)
        return [results[place] for place in range(len(images))]

    def _pixels_on_gpu(self, image: Buffer) -> int | None:
        """Return the pixels of an image that the GPU decodes, None for one of the CPU's."""
        return nvjpeg.pixels_of(image, self.limits) if self._decodes else None

    def _fall_back(self, images: Sequence[Buffer], results: Mapping[int, Decoded]) -> dict[int, Decoded]:
        """Decode on the CPU the images without a result: the GPU failed on them."""
        failed = [place for place in range(len(images)) if place not in results]
        if not failed:
            return {}
        return self._uploaded(failed, self.others.decode([images[place] for place in failed]))

    def _on_device(self, images: Mapping[int, Buffer]) -> dict[int, Decoded]:
        """Return images that the GPU decodes and resizes, by their places, without those on which it fails.

        It does not say on which: halves are tried again.
        """
        try:
            with out_of_memory_errors():
                decoded = nvjpeg.decode(list(images.values()), self.preprocess.spec.colour, self.preprocess.mean.device)
                return dict(zip(images, self.preprocess.resize_all(decoded, self.dtype), strict=True))
        except torch.OutOfMemoryError:
            _say("GPU out of memory")
            torch.cuda.empty_cache()
        except nvjpeg.Unreadable as error:
            _say(str(error))
        if len(images) == 1:
            return {}
        places = list(images)
        halves = places[: len(places) // 2], places[len(places) // 2 :]
        first, second = ({place: images[place] for place in half} for half in halves)
        return {**self._on_device(first), **self._on_device(second)}

    def _uploaded(self, places: Sequence[int], decoded: Sequence[Decoded]) -> dict[int, Decoded]:
        """Return the images that the CPU decoded, on the device, or on the CPU if the device is out of memory."""
        results = dict(zip(places, decoded, strict=True))
        there = {place: image for place, image in results.items() if isinstance(image, torch.Tensor)}
        if there:
            device = self.preprocess.mean.device
            images = torch.stack(list(there.values()))
            if device.type == "cuda":
                try:
                    with out_of_memory_errors():  # the copy goes beside what else the GPU does
                        images = images.pin_memory().to(device, non_blocking=True)
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
            results |= zip(there, images, strict=True)
        return results


@functools.cache
def _say(reason: str) -> None:
    """Write a reason into the log, once."""
    logging.getLogger(__name__).warning("falling back to CPU decoding: %s", reason)


def _parts(pixels: Sequence[int | None]) -> Iterator[list[int]]:
    """Yield the places of images that are decoded in one call: of up to `PIXELS` pixels, or one image of more."""
    part: list[int] = []
    total = 0
    for place, count in enumerate(pixels):
        if count is None:
            continue
        if part and total + count > PIXELS:
            yield part
            part, total = [], 0
        part.append(place)
        total += count
    if part:
        yield part
