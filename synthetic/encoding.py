"""Encoded images: PNG for grey drawings, baseline 4:2:0 JPEG for coloured ones."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from synthetic.canvas import Pixels


def png(image: Pixels) -> bytes:
    """Return a grey (H, W) or RGB (H, W, 3) image as PNG, packed fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def jpeg(image: Pixels, quality: int = 90) -> bytes:
    """Return an RGB (H, W, 3) image as baseline JPEG with halved colour planes; `quality` 1 to 100."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return data
