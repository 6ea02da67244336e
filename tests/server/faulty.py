"""Archives whose handler does something wrong, once they are served: its code is changed after they were built.

A `time.sleep` here is the fault itself: a slow answer, or a handler that does nothing while a file is there.
"""

import json
from pathlib import Path

from benchmarks.harness import small_server
from serving.store.model_store import Archive

RAISES = """
def _initialize(self, context):
    raise RuntimeError("the weights are of another network")
ImageHandler.initialize = _initialize
"""
SLOW = """
import time
_handle = ImageHandler.handle
def _slowly(self, data, context):
    time.sleep(0.5)
    return _handle(self, data, context)
ImageHandler.handle = _slowly
"""
BLACK = """
from handlers.preprocessing import Preprocess
_resize = Preprocess.resize
Preprocess.resize = lambda self, image: _resize(self, image) * 0
"""
# Wrong for requests alone: the golden images that a worker asks itself do not come through `handle`.
WRONG = """
import json
_handle = ImageHandler.handle
def _wrongly(self, data, context):
    answers = []
    for answer in _handle(self, data, context):
        rows = json.loads(answer)
        answers.append(json.dumps(dict(zip(rows, reversed(list(rows.values()))))).encode())
    return answers
ImageHandler.handle = _wrongly
"""
# An image that ends with this kills the worker that gets it.
DEADLY = b"kills"
KILLED = f"""
import os
_handle = ImageHandler.handle
def _die(self, data, context):
    if any(bytes(next(iter(row.values()))).endswith({DEADLY!r}) for row in data):
        os.kill(os.getpid(), 9)
    return _handle(self, data, context)
ImageHandler.handle = _die
"""


def wrong_in_the_second(flag: Path) -> str:
    """Return code that answers as `WRONG` in each worker but the first, which writes its process into a file."""
    return f"""
import os
from pathlib import Path
if not Path({str(flag)!r}).exists():
    Path({str(flag)!r}).write_text(str(os.getpid()))
if Path({str(flag)!r}).read_text() != str(os.getpid()):
    exec({WRONG!r})
"""


def raises_while(flag: Path) -> str:
    """Return code that cannot load while a file is there."""
    return f"""
import os
_initialize = ImageHandler.initialize
def _unless(self, context):
    if os.path.exists({str(flag)!r}):
        raise RuntimeError("not now")
    _initialize(self, context)
ImageHandler.initialize = _unless
"""


def ends_while(flag: Path) -> str:
    """Return code that ends its process 0.1 s after a request while a file is there, and cannot load then."""
    return f"""{raises_while(flag)}
import threading
_handle = ImageHandler.handle
def _once(self, data, context):
    if os.path.exists({str(flag)!r}):
        threading.Timer(0.1, os._exit, (1,)).start()
    return _handle(self, data, context)
ImageHandler.handle = _once
"""


def waits_while(flag: Path) -> str:
    """Return code that does not end to load while a file is there."""
    return f"""
import os, time
_load = ImageHandler.initialize
def _later(self, context):
    while os.path.exists({str(flag)!r}):
        time.sleep(0.05)
    _load(self, context)
ImageHandler.initialize = _later
"""


def hangs_while(flag: Path) -> str:
    """Return code that answers nothing while a file is there, and makes another, `.held`, once it has a request."""
    return f"""
import os, time
_handle = ImageHandler.handle
def _unless(self, data, context):
    while os.path.exists({str(flag)!r}):
        open({f"{flag}.held"!r}, "w").close()
        time.sleep(0.05)
    return _handle(self, data, context)
ImageHandler.handle = _unless
"""


def computes_while(flag: Path) -> str:
    """Return code that computes without an answer while a file is there, and makes another, `.held`, meanwhile."""
    return f"""
import os
_handle_at_once = ImageHandler.handle
def _computing(self, data, context):
    while os.path.exists({str(flag)!r}):
        open({f"{flag}.held"!r}, "w").close()
        sum(range(100_000))
    return _handle_at_once(self, data, context)
ImageHandler.handle = _computing
"""


def raises_in_handle_while(flag: Path) -> str:
    """Return code that answers with an error while a file is there."""
    return f"""
import os
_handle = ImageHandler.handle
def _unless(self, data, context):
    if os.path.exists({str(flag)!r}):
        raise RuntimeError("not now")
    return _handle(self, data, context)
ImageHandler.handle = _unless
"""


def busy_once(flag: Path, seconds: float) -> str:
    """Return code that computes for some time before it answers, for the first that finds a file there."""
    return f"""
import os, time
_handle = ImageHandler.handle
def _busily(self, data, context):
    try:
        os.unlink({str(flag)!r})
    except FileNotFoundError:
        return _handle(self, data, context)
    began = time.monotonic()
    while time.monotonic() - began < {seconds}:
        pass
    return _handle(self, data, context)
ImageHandler.handle = _busily
"""


def spoil(archive: Archive, code: str) -> Archive:
    """Append code to the handler of an archive, in place; return the archive."""
    small_server.spoil(archive.path, code)
    return archive


def without(archive: Archive, member: str) -> Archive:
    """Take a file out of an archive, in place; return the archive."""
    small_server.edit(archive.path, lambda members: members.pop(member))
    return archive


def expects(archive: Archive, probability: float) -> Archive:
    """Have an archive expect the same probability of every class for its golden images, in place; return it."""

    def change(members: dict[str, bytes]) -> None:
        rows = json.loads(members["golden.json"])
        for row in rows:
            row["probabilities"] = [probability] * len(row["probabilities"])
        members["golden.json"] = json.dumps(rows).encode()

    small_server.edit(archive.path, change)
    return archive
