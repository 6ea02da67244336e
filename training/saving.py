"""Write objects that `torch.load` reads, atomically."""

import io
from pathlib import Path

import torch

from handlers.atomic import replacing


def save(document: object, path: Path) -> None:
    """Write a document with tensors.

    Raises:
        OSError: the disk is full. `torch.save` to a path would end the process.
    """
    content = io.BytesIO()
    torch.save(document, content)
    with replacing(path) as part:
        part.write_bytes(content.getbuffer())
