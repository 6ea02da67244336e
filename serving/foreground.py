"""A server of several processes in the foreground: it prints when it is ready, and an interrupt ends them."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import httpx

from serving.host.ports import Address, is_free
from serving.store.model_store import ArchiveError

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
INTERVAL, GRACE = 0.1, 5.0  # seconds: between two looks whether it is ready, and until a process is killed


def run(serve: Callable[[], None], port: int, *, health: str) -> int:
    """Run `serve` until it ends, or a signal asks for its end; return the exit status.

    Ctrl-C reaches every process of a terminal, and each would print its own traceback. So `serve` and its children run
    in a separate session, and only this process receives signals.

    Args:
        serve: listens on the loopback until a KeyboardInterrupt; an ArchiveError or RuntimeError prints one line.
        port: on which it listens.
        health: a path there that is answered with 200 once it is ready.
    """
    address = Address("127.0.0.1", port)
    if not is_free(address):
        print(f"error: port {port} is taken: stop what listens there, or choose another with --port", file=sys.stderr)
        return 1
    server = multiprocessing.get_context("fork").Process(target=_serve, args=(serve,))
    server.start()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or a shell that started this with &
            signal.signal(number, lambda *_: server.terminate())
    while server.is_alive() and not _is_healthy(address.url + health):
        server.join(INTERVAL)
    if server.is_alive():
        print(f"ready at {address.url}", flush=True)
    server.join()
    code = server.exitcode or 0
    return code if code >= 0 else 128 - code


def _is_healthy(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False).is_success
    return False


def _serve(serve: Callable[[], None]) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, _leave)
    try:
        serve()
    except KeyboardInterrupt:
        pass
    except (ArchiveError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children = multiprocessing.active_children()  # if interrupted before it was ready, or twice
        for child in children:  # all at once: a process that misses another one logs it
            child.terminate()
        for child in children:
            child.join(GRACE)
            child.kill()


def _leave(*_: Any) -> None:
    """End the first process of the session as Ctrl-C does, and the processes forked from it silently."""
    logging.disable()  # the supervising process would log that the others end
    raise KeyboardInterrupt if os.getpid() == os.getsid(0) else SystemExit
