"""Files of arrays that travel with the weights: a line of JSON with their shapes, then the arrays, little-endian."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.atomic import replacing

# Of a damaged file, from `parse` and from the reader of its JSON.
DAMAGE = (ValueError, KeyError, TypeError)


def write(path: Path, about: Mapping[str, Any], arrays: Sequence[npt.NDArray[Any]]) -> None:
    """Write the arrays in order, after a line with `about` and their shapes."""
    line = json.dumps({"shapes": [list(array.shape) for array in arrays], **about})
    content = (array.tobytes() for array in arrays)
    with replacing(path) as part:
        part.write_bytes(line.encode() + b"\n" + b"".join(content))


def parse(content: bytes, kinds: Sequence[npt.DTypeLike]) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Return the line and the arrays, of `kinds`, of a file that `write` wrote.

    Raises:
        DAMAGE: it is not whole, or no such file.
    """
    line, _, numbers = content.partition(b"\n")
    about = json.loads(line)
    arrays, start = [], 0
    for shape, kind in zip(about["shapes"], kinds, strict=True):
        end = start + math.prod(shape) * np.dtype(kind).itemsize
        arrays.append(np.frombuffer(bytearray(numbers[start:end]), kind).reshape(shape))
        start = end
    return about, arrays
