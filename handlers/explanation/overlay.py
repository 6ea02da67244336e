"""A heat map laid over its image, as PNG."""

import io

import torch
from kornia.color import ColorMap
from PIL import Image

COLOURS, LEVELS = "plasma", 256  # from blue over red to yellow, evenly lighter: legible without colour vision
OPACITY = 0.7  # of the largest value; of 0 it is 0
SPREAD = 0.7  # standard deviation in places


def enlarged(heat: torch.Tensor, size: int) -> torch.Tensor:
    """Return a map (h, w) at the size of its image, (size, size), scaled to a largest value of 1.

    Its values are weighted by a Gaussian around each pixel. Between equal neighbours the peak then lies in their
    middle: bilinear interpolation has it in the centre of a place, 32 pixels from the next one in most networks.
    """
    down, across = (_weights(places, size) for places in heat.shape)
    smooth = down @ heat @ across.T
    return smooth / smooth.max().clamp(min=torch.finfo(smooth.dtype).tiny)


def _weights(places: int, size: int) -> torch.Tensor:
    """Return the weight of each place for each pixel of a line, (size, places); a pixel's have the sum 1."""
    pixels = (torch.arange(size) + 0.5) * places / size - 0.5
    return (-((pixels[:, None] - torch.arange(places)) ** 2) / (2 * SPREAD**2)).softmax(dim=1)


def png(image: torch.Tensor, heat: torch.Tensor) -> bytes:
    """Return an encoded image with its map laid over it.

    Args:
        image: uint8 (C, S, S), of one channel or three.
        heat: float32 (h, w), 0 to 1.
    """
    levels = enlarged(heat, image.shape[-1])
    palette = ColorMap(COLOURS, LEVELS).colors  # (3, LEVELS)
    colours = 255 * palette[:, (levels * (LEVELS - 1)).round().long()]
    picture = torch.lerp(image.cpu().float().expand(3, -1, -1), colours, OPACITY * levels)
    pixels = picture.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
