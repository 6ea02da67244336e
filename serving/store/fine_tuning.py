"""The two runs of `make up`: a linear head, and the network that was fine-tuned from it.

python -m serving.store.fine_tuning NAME    prints which of them an archive packs: NAME or NAME/tuned
"""

import json
import sys
from pathlib import Path
from typing import Any

from handlers.naming import TUNED
from handlers.run_folder import RUNS, RunFolder


def runs(name: str, folder: Path = RUNS) -> tuple[RunFolder, RunFolder]:
    """Return the run of the linear head, which is that of the name, and the run of the fine-tuned network."""
    return RunFolder(folder / name), RunFolder(folder / name / TUNED)


def is_second_stage(run: Path) -> bool:
    """Return whether the folder of a run is that of a fine-tuned network; a model may be called "tuned" too."""
    return run.name == TUNED and run.parent.name != RUNS.name


def name_of(run: Path) -> str:
    """Return the name of a run, as training takes it: <name> or <name>/tuned."""
    return f"{run.parent.name}/{TUNED}" if is_second_stage(run) else run.name


def choice(first: RunFolder, tuned: RunFolder) -> dict[str, Any] | None:
    """Return what `make up` chose between these two networks; None if it did not compare them."""
    document = _read(tuned.choice)
    return document if document.get("keys") == keys(first, tuned) else None


def keys(first: RunFolder, tuned: RunFolder) -> list[str | None]:
    """Return the keys of the two trainings."""
    return [_read(run.training).get("key") for run in (first, tuned)]


def descends(first: RunFolder, tuned: RunFolder) -> bool:
    """Return whether the network that was last compared with this linear head was fine-tuned from it."""
    compared, key = _read(tuned.choice).get("keys") or [None], keys(first, tuned)[0]
    return key is not None and bool(compared[0] == key)


def deployed(first: RunFolder, tuned: RunFolder) -> RunFolder:
    """Return the run that an archive of the model packs: the fine-tuned network, once `make up` deployed it."""
    chosen = choice(first, tuned)
    return tuned if chosen and chosen.get("version") is not None else first


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


if __name__ == "__main__":
    print(deployed(*runs(sys.argv[1])).path.relative_to(RUNS))
