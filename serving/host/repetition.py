"""An action that a thread repeats beside other work."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeated(action: Callable[[], None], interval: float, name: str) -> Iterator[None]:
    """Run `action` now and every `interval` seconds, in a thread of that name, until the block ends.

    The block's end waits for an action that runs. An action that raises is not repeated.
    """
    ending = threading.Event()

    def run() -> None:
        while True:
            action()
            if ending.wait(interval):
                return

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
