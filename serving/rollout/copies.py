"""The copies of live requests that workers write for a trial, and the file that asks them to."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from handlers.observation.mirror import SUFFIX, request_file
from handlers.sampling import LIFETIME, Share, ShareFile
from serving.host.repetition import repeated


class Copy(NamedTuple):
    """An answered image, and its row in the prediction log."""

    row: dict[str, Any]
    image: bytes


@contextlib.contextmanager
def asked_for(folder: Path, name: str, share: Share) -> Iterator[Path]:
    """Have the workers of a version copy a share of its requests until the block ends; yield the folder of copies."""
    copies = folder / name
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(mode=0o700, parents=True)
    try:
        with renewed(request_file(folder, name), share):
            yield copies
    finally:
        shutil.rmtree(copies, ignore_errors=True)


@contextlib.contextmanager
def renewed(file: ShareFile, share: Share) -> Iterator[None]:
    """Ask for a share until the block ends, or this process does."""

    def renew() -> None:
        with contextlib.suppress(OSError):
            file.renew()

    file.write(share)
    try:
        with repeated(renew, LIFETIME / 5, "share"):
            yield
    finally:
        file.remove()


def take(folder: Path, count: int) -> Iterator[Copy]:
    """Yield up to `count` copies, oldest first, and remove them."""
    for path in sorted(folder.glob(f"*{SUFFIX}"))[:count]:
        line, _, image = path.read_bytes().partition(b"\n")
        path.unlink()
        yield Copy(json.loads(line), image)
