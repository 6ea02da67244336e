"""The filter of `handlers.preprocessing` on a GPU: images of many sizes are resized in two multiplications of matrices.

A row of a matrix is the weight of each pixel of an input's side in one of the output's: bilinear or bicubic, half-pixel
centres, widened by the scale where an image shrinks. It gives what `torch.nn.functional.interpolate(antialias=True)`
computes image by image, enlarging and cropping included.
"""

from collections.abc import Iterator, Sequence

import torch

from handlers.spec import Interpolation

CUBIC = -0.5  # the parameter of Keys' cubic (1981), as Pillow has it
PADDING = 2  # times the pixels of the images of one batch


def matrices(
    sides: Sequence[int],
    scaled: Sequence[int],
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    interpolation: Interpolation = "bilinear",
) -> torch.Tensor:
    """Return the matrices of one side of a batch, height or width.

    Args:
        sides: pixels of each image.
        scaled: pixels that each whole image is scaled to, `size` or more.
        size: pixels of the middle of those that are kept.
        device: of the matrices.
        dtype: a floating type.
        interpolation: the filter.

    Returns:
        (B, size, longest of `sides`); each row adds up to 1, and is 0 beyond its image.
    """
    lengths = torch.tensor(sides, dtype=torch.float32, device=device)[:, None, None]
    whole = torch.tensor(scaled, dtype=torch.float32, device=device)[:, None, None]
    scale = lengths / whole
    positions = torch.arange(size, dtype=torch.float32, device=device)[:, None] + ((whole - size) / 2).floor()
    places = torch.arange(max(sides), dtype=torch.float32, device=device)
    distance = (places + 0.5 - (positions + 0.5) * scale).abs_() / scale.clamp(min=1)
    kernel = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp_(min=0)
    weights = kernel * (places < lengths)
    return (weights / weights.sum(dim=2, keepdim=True)).to(dtype)


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * CUBIC
    return torch.where(distance < 1, near, far).where(distance < 2, 0)


def resize(
    images: Sequence[torch.Tensor],
    scaled: Sequence[tuple[int, int]],
    size: int,
    dtype: torch.dtype,
    interpolation: Interpolation = "bilinear",
) -> torch.Tensor:
    """Scale images to `scaled` (height, width) each, and keep the `size` x `size` pixels in their middle.

    Args:
        images: uint8, each of shape (C, H, W), all on one device.
        scaled: no side below `size`.
        size: in pixels.
        dtype: of the computation; float16 gives every level of 255 to a quarter.
        interpolation: the filter.

    Returns:
        uint8 of shape (B, C, size, size).
    """
    shapes = [tuple(image.shape[-2:]) for image in images]
    batch = _together(images, shapes)
    device = batch.device
    heights, widths = zip(*shapes, strict=True)
    scaled_heights, scaled_widths = zip(*scaled, strict=True)
    across = matrices(widths, scaled_widths, size, device, dtype, interpolation)
    down = matrices(heights, scaled_heights, size, device, dtype, interpolation)
    count, channels, height, _ = batch.shape
    narrow = batch.to(dtype).flatten(1, 2).bmm(across.mT).view(count, channels, height, size)
    if interpolation == "bicubic":  # its negative weights pass the limits of uint8, which the CPU has here
        narrow.clamp_(0, 255)
    return (down[:, None] @ narrow).round_().clamp_(0, 255).to(torch.uint8)


def _together(images: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Return images in one batch, of the height and the width of the largest."""
    if len(set(shapes)) == 1:
        return torch.stack(list(images))
    height, width = (max(sides) for sides in zip(*shapes, strict=True))
    batch = images[0].new_zeros((len(images), len(images[0]), height, width))
    for row, image, shape in zip(batch, images, shapes, strict=True):
        row[:, : shape[0], : shape[1]] = image
    return batch


def batches(shapes: Sequence[tuple[int, int]], max_pixels: int, size: int) -> Iterator[list[int]]:
    """Yield the places of images that may form one batch: like sizes, and `max_pixels` pixels, or one image of more.

    The matrices to `size` count too: those of a long line have more values than its pixels.
    """

    def values(height: int, width: int) -> int:
        return max(height * width, size * (height + width))

    part: list[int] = []
    height = width = total = 0
    for place in sorted(range(len(shapes)), key=lambda place: max(shapes[place])):
        side = shapes[place]
        padded = (len(part) + 1) * values(max(height, side[0]), max(width, side[1]))
        if part and padded > min(max_pixels, PADDING * (total + values(*side))):
            yield part
            part, height, width, total = [], 0, 0, 0
        part.append(place)
        height, width, total = max(height, side[0]), max(width, side[1]), total + values(*side)
    if part:
        yield part
