"""How long does `make up` take to the first answer, and what does a class added to a served model cost?

    python -m benchmarks.up RAW [--turns 3] [--minutes 10]

RAW holds a folder of images for each class, or such folders in train/, valid/ and test/. Each turn leaves out another
class and works in an empty folder: `make up STAGES=1` on the other classes, `make up` that fine-tunes this model for at
most `--minutes`, then `make up STAGES=1` on all classes. All times begin with the command and end with an answer over
REST. The test images of the old classes that both served networks answered are compared one by one.

Writes benchmarks/results/up.json; the last line is the same JSON document.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import console
from benchmarks.result import ROOT, Origin
from handlers.run_folder import RUNS, RunFolder
from serving import server
from serving.archive import read_spec
from serving.host import ports
from serving.lifecycle.launch import CONFIG
from serving.store import fine_tuning
from training import scores
from training.predictions import Predictions

RESULT = Path("benchmarks/results/up.json")
NAME = "classes"
CODE = ("handlers", "pipeline", "serving", "training")


class UpError(Exception):
    """`make up` failed; its message is printed above."""


def run_up(root: Path, raw: Path, *options: str) -> dict[str, Any]:
    """Run `make up` in `root` and return its record.

    Raises:
        UpError: its exit status is not 0.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.up", str(raw), NAME, *options]
    if subprocess.run(command, cwd=root, env=environment, check=False).returncode:
        raise UpError(f"make up failed in {root}: its reason is printed above")
    record: dict[str, Any] = json.loads((root / "logs" / f"up-{NAME}.json").read_text())
    return record


def copy_without(raw: Path, name: str, target: Path) -> None:
    """Copy a folder of class folders, but not the folders of one class."""
    shutil.copytree(raw, target, ignore=lambda folder, _: [name] if (Path(folder) / name).is_dir() else [])


def classes(raw: Path) -> list[str]:
    """Return the classes of which RAW has folders, on any side."""
    sides = [raw / side for side in ("train", "valid", "test") if (raw / side).is_dir()] or [raw]
    return sorted({folder.name for side in sides for folder in side.iterdir() if folder.is_dir()})


def answers(run: RunFolder) -> dict[str, tuple[str, str]]:
    """Return the true and the predicted class of each test image, by its path."""
    names = read_spec(run.model)["classes"]
    predictions = Predictions.load(run.predictions)
    predicted: npt.NDArray[np.int64] = predictions.probabilities.argmax(axis=1)
    pairs = zip(predictions.paths, predictions.labels, predicted, strict=True)
    return {str(path): (names[label], names[answer]) for path, label, answer in pairs if label >= 0}


def compared(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Return how many test images that both heads answered were right before and after, and which answers changed."""
    common = sorted(before.keys() & after.keys())
    right = [[answer[path][0] == answer[path][1] for path in common] for answer in (before, after)]
    return {
        "images": len(common),
        "right_before": sum(right[0]),
        "right_after": sum(right[1]),
        "lost": sum(one and not other for one, other in zip(*right, strict=True)),
        "gained": sum(other and not one for one, other in zip(*right, strict=True)),
    }


def turn(raw: Path, added: str, minutes: float) -> dict[str, Any]:
    """Serve all classes but one, fine-tune if there are minutes for it, and add that one."""
    with tempfile.TemporaryDirectory(prefix="sightline-up-") as folder, contextlib.ExitStack() as cleanup:
        root = Path(folder)
        shutil.copy(CONFIG, root)
        cleanup.callback(server.stop, root=root)
        copy_without(raw, added, root / "raw")
        run, tuned = fine_tuning.runs(NAME, root / RUNS)
        first = run_up(root, root / "raw", "--stages", "1")
        document: dict[str, Any] = {"class": added, "first_answer_s": first["first_prediction"]}
        if minutes:
            second = run_up(root, root / "raw", "--minutes", f"{minutes:g}")
            document["fine_tuning"] = {
                "minutes": minutes,
                "steps": second["steps"],
                "deployed": json.loads(tuned.choice.read_text()),
                "seconds": second["seconds"],
                "top_1": [json.loads(files.metrics.read_text())["top_1"] for files in (run, tuned)],
            }
        before = answers(fine_tuning.deployed(run, tuned))
        shutil.copytree(raw, root / "raw", dirs_exist_ok=True)
        last = run_up(root, root / "raw", "--stages", "1")
        after = answers(run)
        of_class = [true == answer for true, answer in after.values() if true == added]
        return document | {
            "added_answer_s": last["first_prediction"],
            "steps": {"first": first["steps"], "added": last["steps"]},
            "old_classes": compared(before, after),
            "added_class": {"images": len(of_class), "right": sum(of_class)},
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the turns of the command line, and write the result."""
    parser = console.parser("up", __doc__)
    parser.add_argument("raw", type=Path, help="folder that holds a folder of images for each class")
    parser.add_argument("--turns", type=int, default=3, help="classes that are left out, one a turn (default 3)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the second stage; 0: none (default 10)")
    options = parser.parse_args(arguments)
    names = classes(options.raw)
    if not 1 <= options.turns <= len(names):
        parser.error(f"--turns is {options.turns}: {options.raw} has {len(names)} classes")
    os.environ["SIGHTLINE_PORT_OFFSET"] = str(ports.free_offset(ports.Ports.of_config(CONFIG.read_text()), 24000))
    command = ["RAW", "--turns", str(options.turns), "--minutes", f"{options.minutes:g}"]
    origin = Origin("up", command, code=CODE)
    turns = []
    try:
        for number in range(options.turns):
            added = names[number * len(names) // options.turns]
            turns.append(turn(options.raw, added, options.minutes))
    except (UpError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    totals = {key: sum(one["old_classes"][key] for one in turns) for key in turns[0]["old_classes"]}
    lost = scores.paired_loss(totals["lost"], totals["gained"], totals["images"])
    figures = {
        "classes": len(names),
        "turns": turns,
        "first_answer_s": max(one["first_answer_s"] for one in turns),
        "added_answer_s": max(one["added_answer_s"] for one in turns),
        "old_classes": totals | {"loss": dataclasses.asdict(lost)},
    }
    return origin.publish(figures, RESULT)


if __name__ == "__main__":
    sys.exit(main())
