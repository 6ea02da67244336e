"""Archives in an object store, or any other address that fsspec knows: put them there, and get them from there.

    python -m serving.bucket put gs://bucket/models birds=2.0           from model_store/ of this directory
    python -m serving.bucket get gs://bucket/models birds=2.0 moths=1.0  into model_store/ of this directory
    python -m serving.bucket get                                         those that the environment names

SIGHTLINE_BUCKET=<address> and SIGHTLINE_MODELS="birds=2.0 moths=1.0" are for a container's first step. The layout is a
fleet's: `make deploy FLEET=<address>` puts archives there too.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.errors import ServingError
from serving.fleet import archives
from serving.store import model_store, signature

BUCKET, MODELS = "SIGHTLINE_BUCKET", "SIGHTLINE_MODELS"


class BucketError(ServingError):
    """An address or a model is missing; the message says what to do."""


def versions(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the name and the version of each model.

    Raises:
        BucketError: there is none, or one has no version: the newest one may differ from machine to machine.
    """
    pairs = [word.partition("=") for word in words]
    if not pairs or any(not name or not version for name, _, version in pairs):
        raise BucketError(f"name each model with its version, as in birds=2.0 (or {MODELS}=birds=2.0)")
    return [(name, version) for name, _, version in pairs]


def put(url: str, models: Sequence[tuple[str, str]], root: Path) -> None:
    """Copy archives with their sidecars and signatures to an address.

    Raises:
        ArchiveError: one is missing or damaged, or the address has another one of that version.
        AddressError: the address cannot be written.
    """
    for name, version in models:
        archive = model_store.find(name, version, root / model_store.FOLDER)
        signature.check(archive, root)
        archives.push(archive, url)
        print(f"{name} {version} is at {url}")


def get(url: str, models: Sequence[tuple[str, str]], root: Path) -> None:
    """Copy archives with their sidecars and signatures from an address, and check their hashes.

    Raises:
        ArchiveError: one is missing or damaged.
        AddressError: the address cannot be read.
    """
    store = root / model_store.FOLDER
    store.mkdir(exist_ok=True)
    for name, version in models:
        archives.fetch(name, version, url, store)
        print(f"{name} {version} is in {model_store.FOLDER}")


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Put or get; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.bucket", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("put", "get"))
    parser.add_argument("address", nargs="?", default=environment.get(BUCKET, ""), metavar="ADDRESS")
    parser.add_argument("models", nargs="*", metavar="NAME=VERSION")
    options = parser.parse_args(arguments)
    try:
        if not options.address:
            raise BucketError(f"name the address, such as gs://bucket/models (or {BUCKET})")
        models = versions(options.models or environment.get(MODELS, "").split())
        (put if options.verb == "put" else get)(options.address, models, Path.cwd())
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
