"""Serve an archive like the last step of `make up`, and report it like a deployment, for `interleavings.py`.

python -m tests.campaigns.reported_up NAME VERSION
"""

import sys
from pathlib import Path

from pipeline import steps
from serving.store import model_store


def up(name: str, version: str) -> None:
    root = Path.cwd()
    steps.serve(model_store.find(name, version, root / model_store.FOLDER), root)
    print(f"{name} {version} is live;")


if __name__ == "__main__":
    sys.exit(steps.guarded(lambda: up(*sys.argv[1:])))
