"""Keys of the gateway's clients: a key each, with a rate and an end; the file has their hashes only.

    python -m serving.gateway.clients                              who has a key
    python -m serving.gateway.clients add ann --rate 50 --days 90  a new key, shown this once
    python -m serving.gateway.clients add ann --replace            another key: the first one is not valid any more
    python -m serving.gateway.clients revoke ann

A running gateway reads the file again within a second. A client sends name and key by HTTP's basic authentication:

    curl --user ann:<key> --cacert logs/gateway/tls.crt -T hand.png https://localhost:8443/predictions/fingers
"""

import argparse
import base64
import dataclasses
import datetime as dt
import hashlib
import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from filelock import FileLock
from rich.table import Table

from handlers import atomic
from serving.console import table_console
from serving.errors import ServingError

FILE = "gateway_clients.json"
NAME = re.compile(r"(?!nobody$)[a-z0-9][a-z0-9_-]{0,62}")  # "nobody" is in the routes
HASH = re.compile(r"[A-Za-z0-9+/]{27}=")
KEY_BYTES = 32  # random: a hash without salt or rounds cannot be searched for
DEFAULT_RATE, DEFAULT_DAYS = 50, 365
LARGEST_RATE = 100_000  # requests/s
DAY = 86_400  # seconds


class ClientsError(ServingError):
    """A name, a rate or the file is wrong; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayClient:
    """One client: the hash of its key, its requests/s, and the end of its key in seconds since 1970."""

    sha1: str  # base64, as in a file of htpasswd: Envoy knows no other
    rate: int
    expires: float

    @classmethod
    def of_entry(cls, sha1: str, rate: int, expires: float) -> Self:
        """Return the client of an entry of the file; ValueError or TypeError where Envoy would refuse it."""
        if not HASH.fullmatch(sha1) or not 1 <= int(rate) <= LARGEST_RATE:
            raise ValueError(f"a hash or a rate cannot be: {sha1}, {rate}")
        return cls(sha1, int(rate), float(expires))

    def is_valid(self, now: float) -> bool:
        """Return whether its key has not expired."""
        return now < self.expires


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayClients:
    """Every client, by its name."""

    clients: Mapping[str, GatewayClient]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Return the clients of the gateway of a directory; none without a file.

        Raises:
            ClientsError: the file is damaged, or may not be read.
        """
        path = root / FILE
        try:
            document = json.loads(path.read_text())
            if wrong := [name for name in document if not NAME.fullmatch(name)]:
                raise ValueError(f"no names of clients: {', '.join(wrong)}")
            return cls({name: GatewayClient.of_entry(**entry) for name, entry in document.items()})
        except FileNotFoundError:
            return cls({})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ClientsError(
                f"{path} cannot be read ({error!r}): restore it, or remove it and add keys anew"
            ) from error

    @classmethod
    def update(cls, root: Path, change: Callable[[dict[str, GatewayClient]], None]) -> None:
        """Read the file, apply `change` and write it, under a lock; only its owner may read it."""
        path = root / FILE
        with FileLock(path.with_name(f"{FILE}.lock")):
            clients = dict(cls.read(root).clients)
            change(clients)
            document = {name: dataclasses.asdict(client) for name, client in sorted(clients.items())}
            atomic.write_private(path, (json.dumps(document, indent=2) + "\n").encode())

    def valid(self, now: float) -> dict[str, GatewayClient]:
        """Return those whose keys have not expired."""
        return {name: client for name, client in self.clients.items() if client.is_valid(now)}


def add(root: Path, name: str, *, rate: int = DEFAULT_RATE, days: float = DEFAULT_DAYS, replaces: bool = False) -> str:
    """Give a client a new key, and return it; it is valid at once, and the one that it replaces is not any more.

    Raises:
        ClientsError: a value cannot be, the client has a key and `replaces` is false, or the file is damaged.
    """
    if not NAME.fullmatch(name):
        raise ClientsError(f"{name!r} is no name of a client: use small letters, digits, - and _")
    if not 1 <= rate <= LARGEST_RATE:
        raise ClientsError(f"a rate of {rate} requests/s is impossible: name 1 to {LARGEST_RATE:,}")
    if not 0 < days <= 100 * DEFAULT_DAYS:
        raise ClientsError(f"a key cannot last {days:g} days: name up to {100 * DEFAULT_DAYS:,}")
    key = secrets.token_urlsafe(KEY_BYTES)
    client = GatewayClient(hash_of(key), rate, round(time.time() + days * DAY))

    def put(clients: dict[str, GatewayClient]) -> None:
        if name in clients and not replaces:
            raise ClientsError(f"{name} has a key: give it another with --replace, or choose another name")
        clients[name] = client

    GatewayClients.update(root, put)
    return key


def revoke(root: Path, name: str) -> None:
    """Take a client's key away.

    Raises:
        ClientsError: there is no such client, or the file is damaged.
    """

    def remove(clients: dict[str, GatewayClient]) -> None:
        if clients.pop(name, None) is None:
            raise ClientsError(f"no client has the name {name!r}: python -m serving.gateway.clients lists them")

    GatewayClients.update(root, remove)


def hash_of(key: str) -> str:
    """Return the hash of a key as Envoy compares it: SHA-1 in base64."""
    return base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()


def show(clients: GatewayClients) -> None:
    """Print a table."""
    table = Table()
    for heading in ("client", "requests/s", "key until"):
        table.add_column(heading, justify="right" if heading == "requests/s" else "left")
    now = time.time()
    for name, client in clients.clients.items():
        until = dt.datetime.fromtimestamp(client.expires, dt.UTC).strftime("%Y-%m-%d")
        table.add_row(name, str(client.rate), until if client.is_valid(now) else f"{until} (expired)")
    table_console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.gateway.clients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb")
    adding = verbs.add_parser("add", help="give a client a new key")
    adding.add_argument("name")
    adding.add_argument("--rate", type=int, default=DEFAULT_RATE, help=f"requests/s (default {DEFAULT_RATE})")
    adding.add_argument("--days", type=float, default=DEFAULT_DAYS, help=f"until its end (default {DEFAULT_DAYS})")
    adding.add_argument("--replace", action="store_true", help="take the place of the key that the client has")
    verbs.add_parser("revoke", help="take a client's key away").add_argument("name")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        if options.verb == "add":
            key = add(root, options.name, rate=options.rate, days=options.days, replaces=options.replace)
            print(f"The key of {options.name}, shown this once: {key}")
        elif options.verb == "revoke":
            revoke(root, options.name)
            print(f"{options.name} has no key any more")
        else:
            show(GatewayClients.read(root))
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
