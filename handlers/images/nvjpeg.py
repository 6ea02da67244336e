"""JPEG to pixels on a GPU, many in one call: nvJPEG, which torchvision brings along.

Only this file imports torchvision, and only in a worker that has a GPU: it takes seconds. On a CPU the same call
decodes with libjpeg, which the tests run.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
import torch

from handlers.device import out_of_memory_errors
from handlers.errors import TooLarge
from handlers.images import jpeg
from handlers.images.decoding import Buffer
from handlers.images.limits import Limits
from handlers.spec import Colour

END = b"\xff\xd9"
BASELINE = b"\xc0"
COMPONENTS = (b"\1", b"\1\2\3", b"\0\1\2")  # grey, and YCbCr: others may mean RGB
MIN_SIDE_PX = 16  # pixels of a side: those of one block of a JPEG whose colours are at half the resolution


class Unreadable(Exception):
    """The decoder fails on one of several images, or on all; the message says why, in one line."""


@functools.cache
def fault_of(device: torch.device) -> str:
    """Return why nothing can be decoded on a device, checked once with a small image; empty if it can."""
    try:
        decode([probe()], "rgb", device)
    except Unreadable as error:
        return str(error)
    return ""


def probe() -> bytes:
    """Return a small image that a GPU is to decode."""
    encoded: bytes = simplejpeg.encode_jpeg(np.zeros((2 * MIN_SIDE_PX, 2 * MIN_SIDE_PX, 3), np.uint8))
    return encoded


def pixels_of(data: Buffer, limits: Limits) -> int | None:
    """Return the pixels of an image for the GPU to decode, or None for one that the CPU decodes or refuses.

    The GPU decodes a baseline JPEG, grey or YCbCr, within the limits, well-formed up to its pixels, with its end.
    The GPU may show damaged pixels as grey, where the decoder on the CPU refuses the image.
    """
    if len(data) > limits.max_bytes or bytes(data[:3]) != jpeg.START or bytes(data[-2:]) != END:
        return None
    frame = jpeg.frame_of(bytes(data[: jpeg.METADATA_BYTES]))
    if frame is None or frame.marker != BASELINE or frame.bits != 8:
        return None
    if frame.components not in COMPONENTS or frame.adobe not in (None, 1):
        return None
    try:
        limits.check_pixels(frame.width, frame.height)
    except TooLarge:
        return None
    return frame.width * frame.height if min(frame.width, frame.height) >= MIN_SIDE_PX else None


def decode(images: Sequence[Buffer], colour: Colour, device: torch.device) -> list[torch.Tensor]:
    """Decode images that `pixels_of` takes, upright: uint8 of shape (C, H, W) each, on `device`.

    Raises:
        Unreadable: one of them cannot be decoded; torch does not say which.
        OutOfMemoryError: there is no room for them.
    """
    library = _library()
    # Since 0.29 torchvision names TorchCodec as the successor of its decoders. Set for each call: that costs little
    # and survives a caller's own `catch_warnings`.
    warnings.filterwarnings("ignore", message=r"The image decoding and encoding capabilities of TorchVision")
    encoded = [torch.frombuffer(_writable(image), dtype=torch.uint8) for image in images]
    mode = library.ImageReadMode.RGB if colour == "rgb" else library.ImageReadMode.GRAY
    if device.type == "cuda":
        # torchvision decodes on another stream, into memory that kernels of this one may still be reading.
        torch.cuda.current_stream(device).synchronize()
    try:
        with out_of_memory_errors():  # torchvision wraps torch's error
            decoded = library.decode_jpeg(encoded, mode=mode, device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Unreadable(str(error).partition("\n")[0]) from error
    return [_upright(pixels, jpeg.orientation_of(data)) for pixels, data in zip(decoded, images, strict=True)]


def _library() -> Any:
    """Return torchvision.io.

    Raises:
        Unreadable: it is not installed, or does not fit this torch.
    """
    try:
        import torchvision.io
    except (ImportError, RuntimeError, OSError) as error:  # of another CUDA than torch: a RuntimeError
        raise Unreadable(f"torchvision cannot be imported: {error}") from error
    return torchvision.io


def _writable(data: Buffer) -> Buffer:
    # torch warns of memory that it may not write to; what TorchServe hands over is a bytearray, and is not copied.
    return bytearray(data) if isinstance(data, bytes) else data


def _upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """Turn and mirror (C, H, W) pixels as `handlers.images.orientation.upright` does (H, W, C) ones."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels.flip(2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels.flip(1)
    return pixels
