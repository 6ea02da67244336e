"""What this machine's GPU reaches, unattended and within eight minutes: `make gpu-report`.

    python -m benchmarks.gpu_report              on a GPU
    python -m benchmarks.gpu_report --rehearse   the same commands on the CPU with small loads: that all of it runs

In this order: the ceiling of each stage, and all of them in process (`benchmarks.gpu_ceilings`); training
(`benchmarks.training`), and the time that it takes to an accuracy (`benchmarks.time_to_accuracy`); with all the time
that is left, TorchServe at growing concurrency, and its own image_classifier (`benchmarks.gpu_served`), where what
comes last may be cut. Each is a process of its own with a time limit, so that one that fails costs the others nothing.
What was found so far is written after each: benchmarks/results/gpu.json, and gpu.md beside it, a page to read. A
rehearsal writes runs/gpu-rehearsal.json.

Without a network: `python -m benchmarks.gpu_needs` names what has to be carried there.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import bodies, gpu_page, gpu_served, resnet, time_to_accuracy, trained
from benchmarks.result import SERVING, Origin, publish
from benchmarks.serving import DRAWN
from handlers import artifact
from handlers.atomic import write_json, write_text
from serving import server

RESULT, REHEARSAL = Path("benchmarks/results/gpu.json"), Path("runs/gpu-rehearsal.json")
BUDGET, ENDING = 8 * 60.0, 30.0  # seconds in all, and for a command to end in
TRAINING = 25.0  # and for each step of training the network whose answers are compared
# Section -> (network, module, seconds that it may take, arguments on a GPU, arguments of a rehearsal)
SECTIONS: dict[str, tuple[str, str, float, str, str]] = {
    "ceilings": (
        *("resnet50", "gpu_ceilings", 90),
        *("--seconds 1 --distinct 0", "--device cpu --seconds 0.2 --distinct 0"),
    ),
    "ceilings of a small network": (
        *("resnet18", "gpu_ceilings", 60),
        *("--seconds 0.5", "--device cpu --seconds 0.2 --distinct 64"),
    ),
    "training": (
        *("", "training", 50),
        "--rounds 3 --steps 20 --images 4000 dataset.image_size=224 trainer.batch_size=256",
        "--rounds 1 --steps 2 --images 200 dataset.image_size=64 trainer.batch_size=16",
    ),
    "time to accuracy": (
        *("", "time_to_accuracy", 75),
        *("", "--images 20 --goal 0.5 network=small_cnn trainer.epochs=2"),
    ),
    "served": (
        *("resnet50", "gpu_served", BUDGET, ""),
        "--connections 1 4 --workers 1 --batch 4 --seconds 1 --requests 100 --rate 1",
    ),
}


class Report:
    """What was found so far, and how long that took."""

    def __init__(self, root: Path, *, rehearse: bool, console: Console) -> None:
        self.root, self.rehearse, self.console = root, rehearse, console
        self.began = time.monotonic()
        origin = Origin("gpu_report", ["--rehearse"] if rehearse else [], code=(*SERVING, "training"))
        self.result = root / (REHEARSAL if rehearse else RESULT)
        self.document: dict[str, Any] = {
            "benchmark": "gpu",
            **origin.document("cpu" if rehearse else "cuda"),
            "rehearsal": rehearse,
            "goals": gpu_page.GOALS,
            "sections": {},
            "reasons": {},
        }

    @property
    def left(self) -> float:
        """Return the seconds that are left of the budget; a rehearsal has all the time."""
        return 600.0 if self.rehearse else BUDGET - (time.monotonic() - self.began)

    def section(self, name: str, command: Sequence[str], limit: float) -> None:
        """Run one command, and keep the document that it prints last, or the reason why there is none."""
        self.console.print(f"{time.monotonic() - self.began:4.0f} s {name}", highlight=False)
        limit = 600.0 if self.rehearse else min(limit, self.left - ENDING)
        try:
            if limit < 1:
                raise TimeoutError("no time was left for it")
            found, fault = self._last_line(command, limit)
            self.document["sections"][name] = found
            if fault:
                self.document["reasons"][name] = fault
        except (subprocess.TimeoutExpired, TimeoutError, ValueError) as error:
            self.document["reasons"][name] = str(error)
            self.console.print(f"  not measured: {error}")
        self.write()

    def _last_line(self, command: Sequence[str], limit: float) -> tuple[Any, str]:
        """Return the document that a command prints last, and what went wrong after it, if anything.

        Raises:
            ValueError: it prints none.
            TimeoutExpired: it takes longer, and does not heed an interrupt.
        """
        paths = [str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=self.root, env=environment, stdout=subprocess.PIPE, text=True
        )
        over = False
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            over = True
            process.send_signal(signal.SIGINT)  # it ends the server that it started, and prints what it has
            try:
                output, _ = process.communicate(timeout=ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                for folder in (self.root / gpu_served.WORK).glob("*"):
                    server.stop(root=folder)
                if not output:
                    raise
        lines = output.splitlines()
        if not lines:
            raise ValueError(f"it printed no result (exit status {process.returncode})")
        fault = "it was ended, since its time was over" if over else f"it ended with exit status {process.returncode}"
        return json.loads(lines[-1]), "" if process.returncode in (0, 1) else fault  # 1: a goal was missed

    def write(self) -> None:
        """Write the result and its page."""
        self.document["seconds"] = round(time.monotonic() - self.began, 1)
        write_json(self.result, self.document)
        write_text(self.result.with_suffix(".md"), gpu_page.page(self.document))


def command(root: Path, name: str, rehearse: bool, say: Callable[[str], None]) -> list[str]:
    """Return the command of a section; draw the bodies, and make the network, where they are not there.

    Speed does not depend on the weights: only the network whose answers are compared is trained, where that goes well.
    """
    network, module, _, real, small = SECTIONS[name]
    given = (small if rehearse else real).split()
    if not network:
        output = ["--output", str(root / "runs" / "gpu-training.json")] if module == "training" else []
        return [f"benchmarks.{module}", *output, *given]
    folders = [bodies.draw(size, DRAWN)[0].parent for size in bodies.SIZES[:2]]
    asked = [word for folder in folders for word in ("--bodies", str(folder))]
    run = None
    if network == "resnet18" and not rehearse:
        try:
            run = trained.run(network, root, say, timeout=TRAINING)
        except trained.TrainingFailed as error:
            say(f"  with random weights: {error}")
            given += ["--distinct", "0"]  # what random weights agree on says nothing
    return [f"benchmarks.{module}", str(run or _untrained(root, network)), *asked, *given]


def _untrained(root: Path, network: str) -> Path:
    """Return a run whose network has random weights."""
    run = Path("runs") / f"gpu-{network}"
    (root / run).mkdir(parents=True, exist_ok=True)
    artifact.save(resnet.untrained(kind=network), resnet.spec(network=network), root / run / "model.pt")
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the result and the page; 1 where a section has a reason in place of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small loads; claims nothing")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("error: torch finds no GPU here: run it where there is one, or add --rehearse", file=sys.stderr)
        return 1
    console = Console(stderr=True, markup=False, emoji=False)
    # An ignored interrupt, as a shell's "&" leaves it, would be inherited by the sections, which are ended by one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = Report(Path.cwd(), rehearse=options.rehearse, console=console)
    for name, (_, _, limit, _, _) in SECTIONS.items():
        if name == "time to accuracy" and not options.rehearse and time_to_accuracy.real() is None:
            report.document["reasons"][name] = "no real ASL frames: SIGHTLINE_REAL_DATA names their folder"
            continue
        report.section(name, command(Path.cwd(), name, options.rehearse, console.print), limit)
    print(gpu_page.page(report.document))
    return publish(report.document, None, failed=bool(report.document["reasons"]))


if __name__ == "__main__":
    sys.exit(main())
