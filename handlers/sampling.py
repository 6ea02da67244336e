"""A share of requests: which ones belong to it, and the file with which another process asks for it for a while."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from handlers import atomic

REQUEST_ID_HEADER = "x-request-id"  # in a response TorchServe replaces it by an id of its own
LIFETIME = 10.0  # seconds for which a file asks: its writer may be killed
PERIOD = 0.25  # seconds between two looks at the file
CANARY, MIRROR = "canary", "mirror"  # purposes


def is_selected(request_id: str, share: float, purpose: str = "") -> bool:
    """Return whether a request belongs to a share: the same in each process, and independent between purposes."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest) < share * 2**64


class Share(NamedTuple):
    """The share of requests that is for a version, or to be mirrored from it."""

    version: str
    share: float


class ShareFile:
    """The file that asks for a share; its writer renews it, and removes it at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._share: Share | None = None
        self._due = 0.0

    def read(self) -> Share | None:
        """Return the share, None without a file or if nobody renews it."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + PERIOD
            self._share = self._read()
        return self._share

    def _read(self) -> Share | None:
        try:
            if abs(time.time() - self._path.stat().st_mtime) > LIFETIME:
                return None
            return Share(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, share: Share) -> None:
        """Ask for a share."""
        atomic.write_json(self._path, share._asdict())

    def renew(self) -> None:
        """Ask for it for some more seconds."""
        os.utime(self._path)

    def remove(self) -> None:
        """Ask for nothing any more."""
        self._path.unlink(missing_ok=True)
