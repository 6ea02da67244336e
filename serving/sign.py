"""Sign archives, so that a server with the public key loads no others.

    python -m serving.sign --new-key ~/signing.key           once: a private key, and signing.pub in this directory
    python -m serving.sign fingers 2.0 --key ~/signing.key   writes model_store/fingers-2.0.sig

Servers need signing.pub, in the directory that they are started in. Keep the private key elsewhere.
"""

import argparse
import sys
from pathlib import Path

from serving.errors import ServingError
from serving.store import model_store, signature


def main() -> int:
    """Sign one archive or make a key; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.sign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="the model")
    parser.add_argument("version", nargs="?", help="default: the newest in the store")
    parser.add_argument("--key", type=Path, help="the private key")
    parser.add_argument("--new-key", type=Path, metavar="FILE", help="make a key")
    arguments = parser.parse_args()
    if (arguments.name is None) == (arguments.new_key is None) or (arguments.name is None) != (arguments.key is None):
        parser.error("name a model and its --key, or --new-key")
    root = Path.cwd()
    try:
        if arguments.new_key is not None:
            signature.create_key(arguments.new_key, root)
            print(f"Wrote {arguments.new_key} (private) and {signature.PUBLIC_KEY} (servers started here ask for it)")
        else:
            archive = model_store.find(arguments.name, arguments.version, root / model_store.FOLDER)
            print(signature.sign(archive, arguments.key).relative_to(root))
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
