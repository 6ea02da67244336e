"""The tokens of a server: read from the key file that TorchServe writes, renewed before they expire.

    {"inference": {"key": "...", "expiration time": "2026-01-31T12:00:00Z"}, "management": {...}, "API": {"key": "..."}}

Each address has its own token. `API` opens `GET /token?type=inference` on the management address, which replaces
one token at once and rewrites the file; `API` itself never expires, so an expired token can be renewed too.

All clients on a machine share the file. The first client that sees a token near its end renews it, under a lock beside
the file, and the others read the file again. A request with the old token is refused unread, and may be sent again.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal, Self

import httpx
from filelock import FileLock

from serving.client.deadline import Deadline
from serving.errors import ClientError, NoKey

Api = Literal["inference", "management"]
APIS: tuple[Api, ...] = ("inference", "management")
RENEWAL_KEY = "API"

MARGIN = 20.0  # seconds before its end that a token is renewed, or a quarter of its life if that is shorter
RENEWAL = 2.0  # seconds that a renewal may take if it can wait, and that one client waits for another's
PAUSE = 1.0  # seconds between renewals that fail
WRITING = 0.25  # seconds that the server may take to write the file


@dataclasses.dataclass(frozen=True, slots=True)
class Token(httpx.Auth):
    """One token, never shown. Times are seconds since 1970; `expires` is None for a token that never expires."""

    secret: str = dataclasses.field(repr=False)
    expires: float | None
    read_time: float

    @property
    def header(self) -> dict[str, str]:
        """Return the header that authorizes a request."""
        return {"Authorization": f"Bearer {self.secret}"}

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the header on a request."""
        request.headers.update(self.header)
        yield request

    @property
    def is_due(self) -> bool:
        """Return whether it should be renewed."""
        if self.expires is None:
            return False
        return time.time() >= self.expires - min(MARGIN, (self.expires - self.read_time) / 4)

    @property
    def has_expired(self) -> bool:
        """Return whether the server refuses it by now."""
        return self.expires is not None and time.time() >= self.expires

    @classmethod
    def of_entry(cls, entry: dict[str, str], previous: Self | None) -> Self:
        """Return the token of an entry of the file; `previous` if it is the same."""
        secret = entry["key"]
        if previous is not None and previous.secret == secret:
            return previous
        if not secret.isascii() or not secret.isprintable():  # an error about a header would show it
            raise TypeError
        until = entry.get("expiration time")
        expires = dt.datetime.fromisoformat(until).timestamp() if until else None
        return cls(secret, expires, time.time())


class Tokens:
    """The tokens in the file at `path`. Threads may share them.

    `renew(api, token, deadline)` has the server replace the token of `api`; `token` authorizes that.
    """

    def __init__(self, path: Path, renew: Callable[[Api, Token, Deadline], None]) -> None:
        self.path = path
        self._renew = renew
        self._tokens: dict[str, Token] = {}
        self._signature: tuple[int, int, int] | None = None
        self._renewing = threading.Lock()
        self._last_failure = 0.0  # of a renewal, by time.monotonic

    def current(self, api: Api, deadline: Deadline) -> Token:
        """Return the token of an address, after renewing every one that has little time left, if that can be done.

        Raises:
            NoKey: there is no key file, or no such token in it.
        """
        tokens = self._read()
        for name in APIS:
            token = tokens.get(name)
            if token is not None and token.is_due and time.monotonic() > self._last_failure + PAUSE:
                try:
                    self._renew_once(name, token, deadline.at_most(RENEWAL), wait=token.has_expired)
                except (ClientError, OSError):  # the server may still accept the token, and says so if not
                    self._last_failure = time.monotonic()
        return self._of(api, self._read())

    def after_refusal(self, api: Api, refused: Token, deadline: Deadline) -> Token:
        """Return the successor of a token that the server refused; renew it if the file has none.

        Raises:
            NoKey: there is no valid token; the message says why.
        """
        successor = self._of(api, self._read(again=True))
        if successor.secret != refused.secret:
            return successor
        try:
            self._renew_once(api, refused, deadline, wait=True)
        except (ClientError, OSError) as error:
            reason = f"it belongs to another server, or has expired and cannot be renewed: {error}"
            raise NoKey(f"the server refuses the token in {self.path.name}: {reason}") from None
        return self._of(api, self._read())

    def _renew_once(self, api: Api, old: Token, deadline: Deadline, *, wait: bool) -> None:
        """Renew a token that no other client has renewed yet; leave it to a client that is renewing it, unless `wait`.

        Raises:
            ClientError: the server does not renew it, or writes it to another file.
        """
        with self._renewal_lock(deadline.at_most(RENEWAL) if wait else None) as locked:
            tokens = self._read(again=True)
            if self._of(api, tokens).secret != old.secret or not (locked or wait):
                return
            if RENEWAL_KEY not in tokens:
                raise NoKey(f"{self.path.name} has no API key to renew tokens with")
            self._renew(api, tokens[RENEWAL_KEY], deadline)
            if self._of(api, self._read(again=True)).secret == old.secret:
                raise NoKey(f"{self.path.name} is a copy: use the key file that the server writes")

    @contextlib.contextmanager
    def _renewal_lock(self, deadline: Deadline | None) -> Generator[bool]:
        """Take the lock shared by all clients; yield whether it was free. It saves renewals; nothing breaks without it.

        Threads of this process wait for each other first, without polling. Without a deadline there is no waiting.
        """
        if not self._renewing.acquire(timeout=deadline.remaining_seconds if deadline else 0):
            yield False
            return
        lock = FileLock(
            self.path.with_name(f"{self.path.name}.lock"), timeout=deadline.remaining_seconds if deadline else 0
        )
        try:
            with contextlib.suppress(OSError):  # also filelock's Timeout
                lock.acquire()
            yield lock.is_locked
        finally:
            lock.release()
            self._renewing.release()

    def _of(self, api: Api, tokens: dict[str, Token]) -> Token:
        if api not in tokens:
            raise NoKey(f"no server was started here ({self.path.name} cannot be read): start one (make serve)")
        return tokens[api]

    def _read(self, *, again: bool = False) -> dict[str, Token]:
        """Return the tokens in the file; while it is missing or being written, the previous ones."""
        try:
            stat = self.path.stat()
            signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if again or signature != self._signature:
                entries = self._entries()
                self._tokens = {name: Token.of_entry(entry, self._tokens.get(name)) for name, entry in entries.items()}
                self._signature = signature
        except (OSError, ValueError):
            self._signature = None
        except (KeyError, TypeError, AttributeError):  # not a key file of TorchServe
            self._tokens, self._signature = {}, None
        return self._tokens

    def _entries(self) -> Any:
        """Return the document in the file; TorchServe empties it and then writes it, which a first reader waits for."""
        start_time = time.monotonic()
        while True:
            try:
                return json.loads(self.path.read_text())
            except ValueError:
                if self._tokens or time.monotonic() > start_time + WRITING:
                    raise
            time.sleep(0.005)
