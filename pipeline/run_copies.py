"""Copies of a training run's folder at an address, so that another machine continues it.

<address>/<number>/...        a copy: the files of the folder
<address>/newest.json         {"number": ..., "files": [...]}: written last, so that it names a whole copy
"""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import fsspec

from serving.fleet.shared_document import reached

POINTER = "newest.json"


class RunCopies:
    """The copies of a folder at the address `url`.

    Raises:
        AddressError: the address cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        with reached(url):
            self._files, self._path = fsspec.core.url_to_fs(url.rstrip("/"))

    def restore(self, folder: Path) -> bool:
        """Write the newest copy into a folder that does not exist yet; return whether there is one.

        Raises:
            AddressError: it cannot be read.
        """
        with reached(self._url):
            pointer = self._newest()
            if pointer is None:
                return False
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".copy-") as temporary:
                part = Path(temporary) / folder.name
                for name in pointer["files"]:
                    (part / name).parent.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(f"{self._path}/{pointer['number']}/{name}", str(part / name))
                part.rename(folder)
            return True

    def save(self, folder: Path) -> None:
        """Copy a folder, and remove the copies before it.

        Raises:
            AddressError: it cannot be written; the copy before it is whole.
        """
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        with reached(self._url):
            before = self._newest()
            number = before["number"] + 1 if before else 0
            for name in names:
                place = f"{self._path}/{number}/{name}"
                self._files.makedirs(place.rpartition("/")[0], exist_ok=True)  # folders of a disk, nothing in a bucket
                self._files.put_file(str(folder / name), place)
            pointer = json.dumps({"number": number, "files": names})
            self._files.pipe_file(f"{self._path}/{POINTER}", pointer.encode())
            if before:
                with contextlib.suppress(
                    Exception
                ):  # of any file system: the copy is written, the older one costs space
                    self._files.rm(f"{self._path}/{before['number']}", recursive=True)

    def _newest(self) -> dict[str, Any] | None:
        try:
            self._files.invalidate_cache(self._path)
            document: dict[str, Any] = json.loads(self._files.cat_file(f"{self._path}/{POINTER}"))
        except FileNotFoundError:
            return None
        return document
