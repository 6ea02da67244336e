"""Copies of answered images for a trial of another version, which `make deploy` takes from a folder.

folder/MODEL.json           asks the workers of a version for a share of its requests, see `handlers.sampling`
folder/MODEL/NUMBER.copy    a line of the prediction log, then the encoded image
"""

import itertools
import os
import time
from pathlib import Path

from handlers.sampling import MIRROR, ShareFile, is_selected

VARIABLE = "SIGHTLINE_MIRROR"  # the folder
SUFFIX = ".copy"
MOST_WAITING = 500  # copies


class Mirror:
    """The copies of one worker's answers."""

    def __init__(self, folder: Path, name: str, version: str) -> None:
        self._folder, self._version = folder / name, version
        self._file = request_file(folder, name)
        self._numbers = itertools.count()

    def has(self, request_id: str) -> bool:
        """Return whether a request is to be copied."""
        share = self._file.read()
        return share is not None and share.version == self._version and is_selected(request_id, share.share, MIRROR)

    def add(self, line: bytes, image: bytes | bytearray) -> None:
        """Write a copy, unless too many wait; raises OSError."""
        if len(os.listdir(self._folder)) >= MOST_WAITING:
            return
        stem = self._folder / f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers)}"
        part = stem.with_suffix(".part")
        part.write_bytes(line + image)
        os.replace(part, stem.with_suffix(SUFFIX))


def request_file(folder: Path, name: str) -> ShareFile:
    """Return the file that asks for copies of a model's requests."""
    return ShareFile(folder / f"{name}.json")
