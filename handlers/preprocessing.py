"""From decoded pixels to the network's input: the one module that training, evaluation and serving share.

Resizing is bilinear or bicubic with antialiasing: the triangle or the cubic (a = -0.5) widened by the scale, half-pixel
centres, as torchvision, timm and Pillow do it. `resize` computes it in uint8 on a CPU, `reference` in float on any
device; they agree to one level of 255. Where nothing shrinks, the bilinear form of both is
`kornia.geometry.transform.resize(align_corners=False, antialias=False)`. Where something shrinks, Kornia has no such
filter: its `antialias=True` is a Gaussian cut off at two sigma followed by point sampling, has no uint8 form, and
differs from the triangle by a mean of 0.2 to 3 levels of 255 on photographs; its bicubic form has another cubic
(a = -0.75). So torch's own antialiased interpolation does these steps, and Kornia the rest; on a GPU,
`handlers.images.resampling` multiplies images of many sizes by the same filter at once.

The cubic has negative weights. The width is resized first, then the height, and the values are limited to [0, 1] after
each: in uint8 they are in between too, here as in Pillow.
"""

import functools
from collections.abc import Sequence

import kornia.enhance
import kornia.geometry
import torch
from torch import nn
from torch.nn import functional

from handlers.images import resampling
from handlers.spec import Interpolation, PreprocessSpec

# Of the sides of an image that is cropped. Pixels further from the centre do not count.
LONGEST_RATIO = 8
GROUP_VALUES = 2**28  # of images that are resized in one call: a gigabyte of floats


class Preprocess(nn.Module):
    """Resize to the network's square input, and normalise.

    Mean and standard deviation are buffers: they follow `.to(device)`, and they are not in the state dictionary, since
    the spec that travels with the weights holds them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32), persistent=False)

    @property
    def shortest_side(self) -> int:
        """Return the length to which the shorter side of an image is scaled: decoded smaller, it would lose detail."""
        size = self.spec.image_size
        return size if self.spec.resize == "squash" else max(size, round(size / self.spec.crop_fraction))

    def resize(self, image: torch.Tensor) -> torch.Tensor:
        """Return one image at the network's size.

        Args:
            image: uint8 of shape (C, H, W), on any device.

        Returns:
            uint8 of shape (C, S, S), on a CPU a view of interleaved pixels, as decoders make them and as the network
            wants them; the same values where the image has that size already.
        """
        self._check(image)
        if image.device.type != "cpu":
            return _rounded(self.reference(image))
        image = self._shortened(image)
        size = self._scaled(image)
        if size != tuple(image.shape[-2:]):
            image = _interpolate(image, size, self.spec.interpolation)
        return self._cropped(image).permute(1, 2, 0).contiguous().permute(2, 0, 1)

    @torch.inference_mode()
    def resize_all(self, images: Sequence[torch.Tensor], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return images at the network's size, in groups of like sizes: on a device, few kernels for all of them.

        Args:
            images: uint8, each of shape (C, H, W), all on one device.
            dtype: of the computation.

        Returns:
            uint8 of shape (B, C, S, S), in the order of the images.
        """
        resized = torch.empty((len(images), *self.spec.shape), dtype=torch.uint8, device=self.mean.device)
        for image in images:
            self._check(image)
        images = [self._shortened(image) for image in images]
        shapes = [(image.shape[-2], image.shape[-1]) for image in images]
        for part in resampling.batches(shapes, GROUP_VALUES // self.spec.channels, self.spec.image_size):
            group = [images[place] for place in part]
            scaled = [self._scaled(image) for image in group]
            resized[part] = resampling.resize(group, scaled, self.spec.image_size, dtype, self.spec.interpolation)
        return resized

    def reference(self, image: torch.Tensor) -> torch.Tensor:
        """Return images of one size at the network's size, computed in float: what `resize` is held equal to.

        Args:
            image: uint8 of shape (C, H, W) or (B, C, H, W), on any device.

        Returns:
            float32 of shape (C, S, S) or (B, C, S, S), in [0, 1].
        """
        self._check(image)
        image = self._shortened(image)
        size = self._scaled(image)
        values = image.to(torch.float32) / 255
        if self.spec.interpolation == "bicubic":
            values = _interpolate(values, (image.shape[-2], size[1]), "bicubic").clamp_(0, 1)
            values = _interpolate(values, size, "bicubic").clamp_(0, 1)
        elif size[0] >= image.shape[-2] and size[1] >= image.shape[-1]:
            values = kornia.geometry.transform.resize(
                values, size, interpolation="bilinear", align_corners=False, antialias=False
            )
        else:
            values = _interpolate(values, size, "bilinear")
        return self._cropped(values)

    def normalize(self, batch: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return (batch - mean) / std.

        Args:
            batch: uint8, or float in [0, 1], of shape (B, C, S, S).
            dtype: of the network. For one of 16 bits a uint8 batch is normalised in float16, off by less than a
                quarter of one of its levels; in bfloat16 it would be by a half.

        Returns:
            float32, or float16, of the same shape.
        """
        if dtype in (torch.float16, torch.bfloat16) and not batch.is_floating_point():
            return kornia.enhance.normalize(batch.to(torch.float16), *self._levels)
        values = batch.to(torch.float32)
        if not batch.is_floating_point():
            values = values / 255
        return kornia.enhance.normalize(values, self.mean, self.std)

    @torch.inference_mode()
    def write(self, images: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]) -> None:
        """Normalise images into rows of a batch, on a CPU: `normalize` in a tenth of its time.

        One multiplication and addition a value, by numbers that are spread over a line of pixels beforehand: torch
        is slow if it has to repeat three of them, and the caches do not hold them for a whole image.

        Args:
            images: uint8, each of shape (C, S, S).
            rows: float, of the same shape each; overwritten.
        """
        size = self.spec.image_size
        scale, shift = self._spread
        values = torch.empty((size, size, self.spec.channels))
        lines = values.view(size, -1)
        for image, row in zip(images, rows, strict=True):
            values.copy_(image.permute(1, 2, 0))
            torch.addcmul(shift, lines, scale, out=lines)
            row.permute(1, 2, 0).copy_(values)

    @functools.cached_property
    def _levels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation in levels of 255, rounded once."""
        return (255 * self.mean).half(), (255 * self.std).half()

    @functools.cached_property
    def _spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return 1 / (255 std) and -mean / std for each value of a line of pixels: (S C), interleaved."""
        mean, std = self.mean.cpu().double(), self.std.cpu().double()
        size = self.spec.image_size
        return (1 / (255 * std)).float().repeat(size), (-mean / std).float().repeat(size)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Return the network's input for images of any sizes.

        Args:
            images: uint8, each of shape (C, H, W), on the module's device.

        Returns:
            float32 of shape (B, C, S, S).
        """
        if not images:
            size = self.spec.image_size
            return self.mean.new_empty((0, self.spec.channels, size, size))
        return self.normalize(torch.stack([self.resize(image) for image in images]))

    def _scaled(self, image: torch.Tensor) -> tuple[int, int]:
        """Return the height and width that the whole image is scaled to, before cropping."""
        size = self.spec.image_size
        if self.spec.resize == "squash":
            return size, size
        height, width = image.shape[-2:]
        short = self.shortest_side
        if height < width:
            return short, max(short, round(short * width / height))
        return max(short, round(short * height / width)), short

    def _shortened(self, image: torch.Tensor) -> torch.Tensor:
        """Return the middle of a very long image that is to be cropped: scaled up whole it would fill the memory."""
        if self.spec.resize == "squash":
            return image
        longest = LONGEST_RATIO * min(image.shape[-2:])
        top, left = (max(0, side - longest) // 2 for side in image.shape[-2:])
        return image[..., top : top + longest, left : left + longest]

    def _cropped(self, image: torch.Tensor) -> torch.Tensor:
        size = self.spec.image_size
        top, left = ((side - size) // 2 for side in image.shape[-2:])
        return image[..., top : top + size, left : left + size]

    def _check(self, image: torch.Tensor) -> None:
        if image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != self.spec.channels:
            raise ValueError(
                f"image is {image.dtype} of shape {tuple(image.shape)}, must be uint8 of ({self.spec.channels}, H, W)"
            )


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)


def _interpolate(image: torch.Tensor, size: tuple[int, int], mode: Interpolation) -> torch.Tensor:
    if image.ndim == 4:
        return functional.interpolate(image, size=size, mode=mode, align_corners=False, antialias=True)
    # A batch of one with the strides of interleaved pixels: `image[None]` does not keep them.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return functional.interpolate(batch, size=size, mode=mode, align_corners=False, antialias=True)[0]
