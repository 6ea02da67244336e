"""One JSON document at an address that several machines change, each only if nobody else has changed it meanwhile.

Every revision is a file `<number>.json`, which is created only if no file has that number. A folder does that in one
step, as do the object stores of fsspec (`mode="create"`).
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from handlers import atomic
from serving.errors import ServingError

# Those that create a file only if there is none, in one step.
CLOUDS = {"gs", "s3", "abfs"}
EXCLUSIVE = {"file", "memory", *CLOUDS}
DIGITS, KEPT = 12, 20  # of a number in a file name; revisions


class AddressError(ServingError):
    """The address of a fleet cannot be read or written; the message says what to do."""


class Changed(ServingError):
    """Somebody else has changed the document meanwhile."""


class Revision(NamedTuple):
    """A number, 0 before the first document, and the document."""

    number: int
    document: dict[str, Any]


def below(url: str, name: str) -> str:
    """Return the address of a folder below another one."""
    return f"{url.rstrip('/')}/{name}"


@contextlib.contextmanager
def reached(url: str) -> Any:
    """Have the errors of file systems and clouds, which share no class, as one that names the address.

    Raises:
        AddressError: the block has failed.
    """
    try:
        yield
    except (ServingError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise AddressError(f"{url} needs another package ({error}): install it into .venv") from error
    except Exception as error:
        raise AddressError(f"{url} cannot be used ({error!r}): check the address, and the right to write") from error


class SharedDocument:
    """The document in the folder `url` of a file system of fsspec."""

    def __init__(self, url: str) -> None:
        self._url = url
        with reached(url):
            self._files, self._path = fsspec.core.url_to_fs(url)
            protocols = {self._files.protocol} if isinstance(self._files.protocol, str) else {*self._files.protocol}
        if not protocols & EXCLUSIVE:
            raise AddressError(f"{url} cannot hold a fleet: name a folder, or a bucket of {', '.join(sorted(CLOUDS))}")

    def read(self) -> Revision:
        """Return the newest revision.

        Raises:
            AddressError: it cannot be read.
        """
        with reached(self._url):
            while True:
                numbers = self._numbers()
                if not numbers:
                    return Revision(0, {})
                try:
                    return Revision(numbers[-1], json.loads(self._files.cat_file(self._name(numbers[-1]))))
                except FileNotFoundError:  # newer ones have replaced it meanwhile
                    continue

    def replace(self, before: int, document: dict[str, Any]) -> None:
        """Write the document after revision `before`.

        Raises:
            Changed: another one has that place.
            AddressError: it cannot be written.
        """
        data = (json.dumps(document, indent=2) + "\n").encode()
        with reached(self._url):
            try:
                self._create(self._name(before + 1), data)
            except FileExistsError:
                raise Changed(f"another program has changed {self._url}") from None
            if self._numbers()[-1] - (before + 1) >= KEPT:  # others had removed that number, which was old
                self._files.rm_file(self._name(before + 1))
                raise Changed(f"another program has changed {self._url}")
            with contextlib.suppress(Exception):  # the change is written; the next writer removes old ones
                for number in self._numbers()[:-KEPT]:
                    self._files.rm_file(self._name(number))

    def update(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Write what `change` makes of the document, and of what others make of it meanwhile; return it.

        Raises:
            AddressError: it cannot be read or written.
        """
        while True:
            number, document = self.read()
            if (new := change(document)) == document:
                return document
            with contextlib.suppress(Changed):
                self.replace(number, new)
                return new

    def _numbers(self) -> list[int]:
        self._files.invalidate_cache(self._path)
        try:
            names = self._files.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        stems = (name.rsplit("/", 1)[-1].removesuffix(".json") for name in names)
        return sorted(int(stem) for stem in stems if len(stem) == DIGITS and stem.isdecimal())

    def _name(self, number: int) -> str:
        return f"{self._path}/{number:0{DIGITS}d}.json"

    def _create(self, name: str, data: bytes) -> None:
        if not isinstance(self._files, LocalFileSystem):
            self._files.pipe_file(name, data, mode="create")
            return
        folder = Path(name).parent  # fsspec would show a file that is half written
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as place:
            part = Path(place) / "document"
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            atomic.name_once(part, Path(name))
