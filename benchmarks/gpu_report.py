"""Measure the GPU of this machine, unattended and within eight minutes: `make gpu-report`.

    python -m benchmarks.gpu_report              on a GPU
    python -m benchmarks.gpu_report --rehearse   the same commands on the CPU with small loads, as a test

In this order: the rate of each stage, and of all stages in process (`benchmarks.gpu.ceilings`); training
(`benchmarks.training`), and its time to an accuracy (`benchmarks.time_to_accuracy`); in the remaining time, TorchServe
at growing concurrency, and its image_classifier (`benchmarks.gpu.served`), whose last rows may be missing. Each is a
separate process with a time limit, so that a failure does not affect the others. The results so far are written after
each: benchmarks/results/gpu.json, and the page gpu.md next to it. A rehearsal writes runs/gpu-rehearsal.json.

Without a network: `python -m benchmarks.gpu_needs` lists the packages and programs to copy to the machine.
"""

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

from benchmarks import bench_runs, time_to_accuracy
from benchmarks.gpu import page, served
from benchmarks.harness import console, resnet
from benchmarks.result import SERVING, Origin, publish
from benchmarks.serving import DRAWN
from benchmarks.traffic import bodies
from handlers.atomic import write_json, write_text
from handlers.network import torchscript
from handlers.run_folder import RUNS, RunFolder
from serving import server

RESULT, REHEARSAL = Path("benchmarks/results/gpu.json"), Path("runs/gpu-rehearsal.json")
BUDGET, ENDING = 8 * 60.0, 30.0  # seconds of all sections, and until an interrupted command ends
TRAINING = 25.0  # seconds of each step of training the network whose answers are compared
# Section -> (network, module, time limit in seconds, arguments on a GPU, arguments of a rehearsal)
SECTIONS: dict[str, tuple[str, str, float, str, str]] = {
    "ceilings": (
        *("resnet50", "gpu.ceilings", 90),
        *("--seconds 1 --distinct 0", "--device cpu --seconds 0.2 --distinct 0"),
    ),
    "ceilings of a small network": (
        *("resnet18", "gpu.ceilings", 60),
        *("--seconds 0.5", "--device cpu --seconds 0.2 --distinct 64"),
    ),
    "ceilings of EfficientNet-Lite0": (
        *("efficientnet_lite0", "gpu.ceilings", 45),
        *("--seconds 0.5 --distinct 0", "--device cpu --seconds 0.2 --distinct 0"),
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
        *("resnet50", "gpu.served", BUDGET, ""),
        "--connections 1 4 --workers 1 --batch 4 --seconds 1 --requests 100 --rate 1",
    ),
}


class Report:
    """The results so far, and the time since the start."""

    def __init__(self, root: Path, *, rehearse: bool, console: Console) -> None:
        self.root, self.rehearse, self.console = root, rehearse, console
        self.start = time.monotonic()
        origin = Origin("gpu_report", ["--rehearse"] if rehearse else [], code=(*SERVING, "training"))
        self.result = root / (REHEARSAL if rehearse else RESULT)
        self.document: dict[str, Any] = {
            "benchmark": "gpu",
            **origin.document("cpu" if rehearse else "cuda"),
            "rehearsal": rehearse,
            "goals": page.GOALS,
            "sections": {},
            "reasons": {},
        }

    @property
    def remaining(self) -> float:
        """Return the remaining seconds of the budget; a rehearsal has no budget."""
        return 600.0 if self.rehearse else BUDGET - (time.monotonic() - self.start)

    def section(self, name: str, command: Sequence[str], limit: float) -> None:
        """Run one command, and add the document that it prints last, or the reason of its failure."""
        self.console.print(f"{time.monotonic() - self.start:4.0f} s {name}", highlight=False)
        limit = 600.0 if self.rehearse else min(limit, self.remaining - ENDING)
        try:
            if limit < 1:
                raise TimeoutError("no time was left for it")
            figures, fault = self._last_line(command, limit)
            self.document["sections"][name] = figures
            if fault:
                self.document["reasons"][name] = fault
        except (subprocess.TimeoutExpired, TimeoutError, ValueError) as error:
            self.document["reasons"][name] = str(error)
            self.console.print(f"  not measured: {error}")
        self.write()

    def _last_line(self, command: Sequence[str], limit: float) -> tuple[Any, str]:
        """Return the document that a command prints last, and the error after it, or "".

        Raises:
            ValueError: it prints none.
            TimeoutExpired: it exceeds the limit and ignores an interrupt.
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
            process.send_signal(signal.SIGINT)  # it ends its server, and prints the results so far
            try:
                output, _ = process.communicate(timeout=ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                for folder in (self.root / served.WORK).glob("*"):
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
        self.document["seconds"] = round(time.monotonic() - self.start, 1)
        write_json(self.result, self.document)
        write_text(self.result.with_suffix(".md"), page.page(self.document))


def command(root: Path, name: str, rehearse: bool, say: Callable[[str], None]) -> list[str]:
    """Return the command of a section; draw the bodies and create the network if they are missing.

    Speed does not depend on the weights: only the network whose answers are compared is trained, if training succeeds.
    """
    network, module, _, real, small = SECTIONS[name]
    options = (small if rehearse else real).split()
    if not network:
        output = ["--output", str(root / RUNS / "gpu-training.json")] if module == "training" else []
        return [f"benchmarks.{module}", *output, *options]
    folders = [bodies.draw(size, DRAWN)[0].parent for size in bodies.SIZES[:2]]
    images = [word for folder in folders for word in ("--bodies", str(folder))]
    run = None
    if network == "resnet18" and not rehearse:
        try:
            run = bench_runs.run(network, root, say, timeout=TRAINING)
        except bench_runs.TrainingFailed as error:
            say(f"  with random weights: {error}")
            options += ["--distinct", "0"]  # the agreement of random weights is meaningless
    return [f"benchmarks.{module}", str(run or _untrained(root, network)), *images, *options]


def _untrained(root: Path, network: str) -> Path:
    """Return a run whose network has random weights."""
    run = RUNS / f"gpu-{network}"
    (root / run).mkdir(parents=True, exist_ok=True)
    torchscript.save(resnet.untrained(network=network), resnet.spec(network=network), RunFolder(root / run).model)
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the result and the page; 1 where a section failed."""
    parser = console.parser("gpu_report", __doc__)
    parser.add_argument("--rehearse", action="store_true", help="test all sections on the CPU with small loads")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("error: torch finds no GPU here: run it where there is one, or add --rehearse", file=sys.stderr)
        return 1
    progress = console.progress()
    # Sections are ended by an interrupt: they must not inherit that a shell's "&" ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = Report(Path.cwd(), rehearse=options.rehearse, console=progress)
    for name, (_, _, limit, _, _) in SECTIONS.items():
        if name == "time to accuracy" and not options.rehearse and time_to_accuracy.real() is None:
            report.document["reasons"][name] = "no real ASL frames: SIGHTLINE_REAL_DATA names their folder"
            continue
        report.section(name, command(Path.cwd(), name, options.rehearse, progress.print), limit)
    print(page.page(report.document))
    return publish(report.document, None, failed=bool(report.document["reasons"]))


if __name__ == "__main__":
    sys.exit(main())
