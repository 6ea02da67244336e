"""Broken copies of `handlers`: ten faults that golden images must show, each an edit of one line."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from serving.store import package


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """A replacement of text in a file of `handlers`."""

    file: str
    old: str
    new: str


RESIZED = "image = _interpolate(image, size, self.spec.interpolation)"
INTERPOLATED = "functional.interpolate(batch, size=size, mode=mode, align_corners=False, antialias=True)"
CROPPED = "return self._cropped(image).permute(1, 2, 0)"
MIDDLE = "top, left = ((side - size) // 2 for side in image.shape[-2:])"
MUTANTS: Mapping[str, Mutant] = MappingProxyType(
    {
        "nearest": Mutant(
            "preprocessing.py", INTERPOLATED, 'functional.interpolate(batch, size=size, mode="nearest-exact")'
        ),
        "black": Mutant("preprocessing.py", RESIZED, f"{RESIZED} * 0"),
        "upside down": Mutant("preprocessing.py", CROPPED, CROPPED.replace("(image)", "(image).flip(1)")),
        "EXIF ignored": Mutant("images/orientation.py", "if orientation == 1:", "if True:"),
        "BGR": Mutant("preprocessing.py", CROPPED, CROPPED.replace("(image)", "(image).flip(0)")),
        "constant answer": Mutant(
            "network/engine.py", "self.run_async(inputs)", "self.run_async(torch.zeros_like(inputs))"
        ),
        "no normalisation": Mutant(
            "preprocessing.py", "torch.addcmul(shift, lines, scale, out=lines)", "lines.div_(255)"
        ),
        "crop shifted": Mutant("preprocessing.py", MIDDLE, MIDDLE.replace("// 2", "// 3")),
        "decoded in full": Mutant("images/decoder.py", "smallest=self.preprocess.shortest_side", "smallest=None"),
        "decoded too small": Mutant("images/jpeg.py", "SCALED_MARGIN = 1.25", "SCALED_MARGIN = 0.6"),
    }
)


def write(mutant: Mutant | None, folder: Path) -> Path:
    """Copy `handlers` into a folder, broken or whole, and return the copy.

    Raises:
        ValueError: the text to replace does not occur exactly once.
    """
    copied = folder / "handlers"
    shutil.copytree(package.HANDLERS, copied, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        path = copied / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times: mend this mutant")
        path.write_text(text.replace(mutant.old, mutant.new))
    return copied
