"""Push commits to a bare repository that deploys to a server: how long until a commit answers, and which do not?

    python -m benchmarks.push                 3 good commits and 3 that break something; about 5 minutes
    python -m benchmarks.push --commits 1

A caller asks the server all the time and notes the commit that each answer names. A good commit changes a file of the
handlers: the seconds are those from the line "tests passed" to the first answer of the commit. The other commits swap
the colour channels, cannot load on the server, and fail their tests; no answer may be theirs or another than before.
The tests of a commit are one quick command here. The last line is one JSON document.
"""

import contextlib
import dataclasses
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console, servers, small_server
from benchmarks.harness.pushed_clone import CHANNELS, SWAPPED, Clone
from benchmarks.harness.small_server import MODEL, TOLERANCE
from benchmarks.result import Origin
from handlers.run_folder import RUNS
from pipeline.receiving.push import TESTED
from serving.client import Client
from serving.errors import ServingError

RESULT, WORK = Path("benchmarks/results/push.json"), Path("runs/bench-push")
CODE = ("pipeline/receiving", "pipeline/receive.py", "serving", "handlers")
INTERVAL, GOAL = 0.05, 300.0  # seconds between two requests, and until a commit answers


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer: when it was received, its commit, and whether it is that of the network; None if it failed."""

    time: float
    commit: str | None
    is_right: bool | None


@contextlib.contextmanager
def asking(root: Path) -> Iterator[list[Answer]]:
    """Ask the server of `root` until the block ends; yield the list of answers, which grows."""
    answers, ended, (image,) = list[Answer](), threading.Event(), small_server.images(1)
    with Client(root=root, deadline=5) as client:
        expected = client.predict(image, MODEL).probabilities

        def ask() -> None:
            while not ended.wait(INTERVAL):
                try:
                    answer = client.predict(image, MODEL)
                except ServingError:
                    answers.append(Answer(time.perf_counter(), None, None))
                    continue
                same = answer.probabilities.keys() == expected.keys() and all(
                    abs(answer.probabilities[label] - value) < TOLERANCE for label, value in expected.items()
                )
                answers.append(Answer(time.perf_counter(), answer.commit, same))

        caller = threading.Thread(target=ask)
        caller.start()
        try:
            yield answers
            threading.Event().wait(1.0)  # answers after the end of the push
        finally:
            ended.set()
            caller.join()


def push(clone: Clone, root: Path) -> dict[str, Any]:
    """Push the changes of a clone; return the figures of that."""
    commit, times = clone.commit(), dict[str, float]()
    with asking(root) as answers:
        lines = clone.push(lambda line: times.setdefault(line, time.perf_counter()))
        end = time.perf_counter()
    live = [answer.time for answer in answers if answer.commit == commit]
    tested = times.get(TESTED)
    return {
        "last_line": lines[-1].replace(sys.executable, "python").replace(str(root.parent), "."),
        "seconds_to_live": round(live[0] - tested, 1) if live and tested is not None else None,
        "answers": len(answers),
        "failed": sum(answer.is_right is None for answer in answers),
        "other_answers": sum(answer.is_right is False for answer in answers),
        "of_commit": len(live),
        "of_another_after_end": sum(answer.commit != commit for answer in answers if answer.time > end),
    }


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Return the figures of `count` good commits, and of those that break something."""
    servers.empty(folder)
    root = folder / "root"
    small_server.prepare(root, ["1.0"])
    shutil.copytree(root / RUNS / f"{MODEL}-1.0", root / RUNS / MODEL)
    clone = Clone.of(folder, root)
    with small_server.serving(root, [f"{MODEL}=1.0"]):
        good = []
        for number in range(count):
            clone.change("handlers/sampling.py", f"\n# change {number}\n")
            good.append(push(clone, root))
        broken = {}
        for name, (file, text, replacement) in faults().items():
            clone.change(file, text, replacement)
            broken[name] = push(clone, root)
            clone.git("revert", "--no-edit", "HEAD")
    return {"good": good, "broken": broken, **summary(good)}


def faults() -> dict[str, tuple[str, str, str]]:
    """Return the faults of commits: the file, and its text before and after."""
    return {
        "swaps the colour channels": ("handlers/preprocessing.py", CHANNELS, SWAPPED),
        "cannot load": ("handlers/sightline_handler.py", "torchserve_reader.install()", "torchserve_reader.missing()"),
        "fails its tests": ("handlers/sampling.py", "def is_selected(", "def is_selected(("),
    }


def summary(good: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the time until a commit answers: the median and the slowest."""
    seconds = [row["seconds_to_live"] for row in good if row["seconds_to_live"] is not None]
    return {"median": statistics.median(seconds), "slowest": max(seconds)} if seconds else {}


def goals_met(document: dict[str, Any]) -> bool:
    """Return whether each good commit answered in time, no other one did, and no request failed or changed."""
    rows = [*document["good"], *document["broken"].values()]
    return (
        all(
            row["seconds_to_live"] is not None and row["seconds_to_live"] <= GOAL and not row["of_another_after_end"]
            for row in document["good"]
        )
        and not any(row["of_commit"] for row in document["broken"].values())
        and not any(row["failed"] or row["other_answers"] for row in rows)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 if a goal is missed."""
    parser = console.parser("push", __doc__)
    parser.add_argument("--commits", type=int, default=3, help="good commits (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    origin = Origin("push", sys.argv[1:] if arguments is None else arguments, code=CODE)
    document = measure(Path.cwd() / WORK, options.commits)
    return origin.publish({"goal": GOAL, **document}, options.output, failed=not goals_met(document))


if __name__ == "__main__":
    sys.exit(main())
