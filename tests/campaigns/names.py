"""Does every verb treat a name as text: the right files and labels, or one clear line and nothing written?

    python -m tests.campaigns.names
    python -m tests.campaigns.names --only 1.10

`make` turns the variables of a verb into the arguments of a command, which runs in this process: torch is imported
once. Each good name has a data set with unique class names, a network of one epoch, and versions 1.0 and 2.0 in a
server; no verb may touch a file of another name. SIGHTLINE_PORT_OFFSET moves the server's ports.

Writes benchmarks/results/names.json; the last line is the same JSON document.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.result import CAMPAIGNS, ROOT, SERVING, Origin
from serving import server
from tests.campaigns.commands import Ended, run
from tests.campaigns.layout_cases import classes

RESULT = Path("benchmarks/results/names.json")
NAMES_A_SERVER = 4  # each version has a worker
GOOD = (
    *("1.10", "1.1", "2024_01", "202401", "1e3", "1000", "null", "None", "true", "True", "007", "7", "on", "off", "y"),
    *("0x1f", "1_000", "nan", "3.0.0", "2024-01-01", "a-1.0", "error", "con", "models", "fold-1", "a.mar", "x" * 64),
)
REFUSED = (
    *("12:30", "~", ".", "..", "../x", "a/b", "/tmp/x", "-h", "--help", "-1", "a b", "a ", "ä", "x" * 65, "a\nb"),
    *("[red]", "{a}", "a,b", "a=b", "${seed}", "$(touch x)", "`touch x`", "a;touch x", 'a"b', "a'b", "*", "#a", "a\\b"),
    *("%41", "tokens", "a.", "a-", "a\x07b", "a&b", "<b>", "=1+1", "${oc.env:HOME}", "$x", ".hidden", "a\u202eb"),
)
DATA = ("dataset.image_size=24", "dataset.interpolation=bilinear")
TRAIN = (
    *(*DATA, "network=small_cnn", "network.layers=[{channels: 8, pool: max}, {channels: 8}]", "augmentation=[]"),
    *("trainer.epochs=1", "trainer.batch_size=8", "trainer.device=cpu", "trainer.max_minutes=10.0", "split.folds=4"),
)
ARGS = {
    "data": DATA,
    "train": TRAIN,
    "archive": ("minWorkers=1",),
    "predict": ("--json",),
    "deploy": ("--watch", "1"),
    "status": ("--json",),
    "up": TRAIN,
}
OFFLINE = ("data", "train", "evaluate", "archive", "verify", "predict")
SERVED = ("predict", "archive", "deploy", "predict", "rollback", "predict", "status", "up")
NEXT = ("archive", "deploy")  # verbs that get version 2.0 if the name is served
VERBS = (*OFFLINE, "serve", "deploy", "rollback", "up")
COMMANDS = {  # commands that no verb runs by itself
    "export": ("training.export", "name={}"),
    "crossvalidate": ("training.crossvalidate", "dataset=class_folders", "split.folds=2", "name={}"),
    "submission": ("training.submission", "name={}"),
    "agreement": ("pipeline.agreement", "--", "{}"),
    "litserve_door": ("serving.litserve_server", "--", "{}"),
}


class Home:
    """The working directory of verbs.

    Args:
        parent: an empty folder around it, in which no verb may write.
    """

    def __init__(self, parent: Path) -> None:
        self.parent, self.folder, self.interpreter = parent, parent / "home", parent / "python"
        self.folder.mkdir()
        shutil.copy(ROOT / "config.properties", self.folder)
        self.interpreter.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
        self.interpreter.chmod(0o755)

    def verb(self, verb: str, variables: dict[str, str], words: Sequence[str] = ()) -> Ended:
        """Run a verb as `make` does, with variables and the words of ARGS."""
        # make expands a `$` in ARGS, the shell everything else.
        texts = [f"{key}={text}" for key, text in variables.items()] + [f"ARGS={shlex.join(words).replace('$', '$$')}"]
        command = ["make", "-f", str(ROOT / "Makefile"), "-o", "setup", f"py={self.interpreter}", verb, *texts]
        # The flags of an outer make would make this one print its directory.
        environment = {
            name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        }
        make = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        if make.returncode:
            return Ended(make.returncode, make.stdout, make.stderr)
        _, module, *arguments = json.loads(make.stdout)
        return run(module, arguments, self.folder)

    def files(self) -> dict[Path, tuple[int, int]]:
        """Return time and size of each file in this folder and its parent, except locks and the logs of a server."""
        logs = self.folder / "logs"
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in self.parent.rglob("*")
            if path.is_file() and (path.parent != logs or path.name.startswith("data-"))
        }


class Attempts:
    """Verbs that run for one name, until one fails its checks.

    Args:
        home: their working directory.
        name: the name under test.
        raw: the folder below `home` with the images of the name's data set; its classes are named after it.
    """

    def __init__(self, home: Home, name: str, raw: str) -> None:
        self.home, self.name, self.raw = home, name, raw
        self.right: list[str] = []
        self.fault = ""

    def run(self, verb: str, version: str = "1.0", *, offline: bool = False, refused: bool = False) -> None:
        """Run a verb, or a command of `COMMANDS`, unless an earlier one failed its checks."""
        if self.fault:
            return
        before = self.home.files()
        process = self._process(verb, version, offline)
        after = self.home.files()
        changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
        fault = refusal_fault(process, changed) if refused else self._fault(verb, version, process, changed)
        self.right += [] if fault else [verb]
        self.fault = f"{verb}: {fault}" if fault else ""

    def _process(self, verb: str, version: str, offline: bool) -> Ended:
        if verb in COMMANDS:
            module, *arguments = COMMANDS[verb]
            return run(module, [argument.format(self.name) for argument in arguments], self.home.folder)
        words = [*ARGS.get(verb, ()), *([self.name] if verb == "serve" else [])]
        variables = {"NAME": self.name, "VERSION": version, "DATASET": "class_folders"}
        variables |= {"RAW": self.raw, "IMAGE": self.raw, "OFFLINE": "1" if offline else ""}
        return self.home.verb(verb, variables, words)

    def _fault(self, verb: str, version: str, process: Ended, changed: set[Path]) -> str:
        """Return the fault of a verb that must succeed, or ""."""
        if process.code or "Traceback" in process.error:
            return f"exit {process.code}: {process.error.strip()[-300:]}"
        if foreign := sorted(str(path) for path in changed if not self._owns(path)):
            return f"wrote {', '.join(foreign[:5])}"
        if missing := [str(path) for path in self._results(verb, version) if not path.is_file()]:
            return f"did not write {', '.join(missing)}"
        check = {"predict": self._prediction_fault, "status": self._status_fault}.get(verb)
        return check(json.loads(process.output)) if check is not None else ""

    def _prediction_fault(self, answers: dict[str, Any]) -> str:
        """Return the fault of answers that must have all labels of the name's data set, or ""."""
        labels = {path.name for path in (self.home.folder / self.raw).iterdir()}
        right = answers and all({*answer} == labels for answer in answers.values())
        return "" if right else f"answered {answers}"

    def _status_fault(self, status: dict[str, Any]) -> str:
        """Return the fault of a status that must show version 1.0 as the default, and 2.0, or ""."""
        models = {(row["version"], row["default"]) for row in status["models"] if row["name"] == self.name}
        return "" if models == {("1.0", True), ("2.0", False)} else f"shows {models}"

    def _owns(self, path: Path) -> bool:
        """Return whether a verb may write this file for the name."""
        folder, store = self.home.folder, self.home.folder / "model_store"
        if path.parent == store:
            stem = path.name.removesuffix(path.suffix)
            return path.name == "live.json" or (path.suffix in (".mar", ".json") and stem.startswith(f"{self.name}-"))
        own = (folder / "data/processed" / self.name, folder / "runs" / self.name)
        return any(path.is_relative_to(owned) for owned in own) or path in (
            folder / "logs" / f"data-{self.name}.json",
            folder / "key_file.json",
        )

    def _results(self, verb: str, version: str) -> list[Path]:
        folder, run_folder = self.home.folder, self.home.folder / "runs" / self.name
        return {
            "data": [folder / "data/processed" / self.name / "dataset.json"],
            "train": [run_folder / "model.pt"],
            "evaluate": [run_folder / "evaluation/metrics.json"],
            "archive": [folder / "model_store" / f"{self.name}-{version}.{end}" for end in ("mar", "json")],
        }.get(verb, [])


def refusal_fault(process: Ended, changed: set[Path]) -> str:
    """Return the fault of a refusal, which must be one clear line before anything is written, or ""."""
    lines = process.error.splitlines()
    if process.code == 0:
        return f"not refused: {(process.output + process.error).strip()[-200:]}"
    if len(lines) != 1 or "error: " not in lines[0]:
        return f"not one line: {process.error.strip()[-300:]}"
    return f"wrote {', '.join(map(str, changed))}" if changed else ""


def refuse(home: Home, name: str) -> Attempts:
    """Run every verb and command with a name that all must refuse."""
    attempts = Attempts(home, name, "raw-refused")
    for verb in (*VERBS, *COMMANDS):
        if verb != "serve" or not (
            name.startswith("-") or "\n" in name
        ):  # in ARGS it would be an option, or end the line
            attempts.run(verb, refused=True)
    return attempts


def learn(home: Home, name: str, number: int) -> Attempts:
    """Draw a data set for a good name, and run every verb that needs no server."""
    raw = f"raw-{number}"
    classes(home.folder / raw, 4, (f"{raw}-left", f"{raw}-right"))
    attempts = Attempts(home, name, raw)
    for verb in OFFLINE:
        attempts.run(verb, offline=True)
    return attempts


def serve(home: Home, group: Sequence[Attempts]) -> None:
    """Serve a group of names, and run every verb that needs a server for each."""
    try:
        process = home.verb("serve", {}, [attempts.name for attempts in group])
        fault = f"serve: {process.error.strip()[-300:]}" if process.code else ""
        for attempts in group:
            attempts.fault = attempts.fault or fault
            for verb in SERVED:
                attempts.run(verb, "2.0" if verb in NEXT else "1.0")
    finally:
        server.stop(root=home.folder)


def show(attempts: Attempts, expected: str) -> dict[str, Any]:
    """Print one line about a name, and return its row of the result."""
    state, name, verbs = "FAULT" if attempts.fault else "right", ascii(attempts.name)[:40], len(attempts.right)
    print(f"{state}  {name:40} {expected:8} {verbs:2} verbs  {attempts.fault}", flush=True)
    return {"name": attempts.name, "expected": expected, "verbs": attempts.right, "fault": attempts.fault}


def attempt_all(names: Sequence[str]) -> list[dict[str, Any]]:
    """Try names in a new folder, and return a row for each."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        classes(home.folder / "raw-refused", 4)
        good = [name for name in names if name in GOOD]
        for first in range(0, len(good), NAMES_A_SERVER):
            group = [learn(home, name, good.index(name)) for name in good[first : first + NAMES_A_SERVER]]
            serve(home, [attempts for attempts in group if not attempts.fault])
            rows += [show(attempts, "used") for attempts in group]
        rows += [show(refuse(home, name), "refused") for name in names if name not in GOOD]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all names, print a line for each, and write the result; 1 where one is wrong."""
    parser = console.parser("names", __doc__, CAMPAIGNS)
    parser.add_argument("--only", action="append", metavar="NAME", help="this name, without a result file")
    options = parser.parse_args(arguments)
    origin = Origin("names", [], package=CAMPAIGNS, code=(*SERVING, "training", "pipeline", "Makefile"))
    rows = attempt_all(options.only or [*GOOD, *REFUSED])
    right, verbs = sum(not row["fault"] for row in rows), sum(len(row["verbs"]) for row in rows)
    figures = {"names": len(rows), "right": right, "verbs": verbs, "rows": rows}
    return origin.publish(figures, None if options.only else RESULT, failed=right != len(rows))


if __name__ == "__main__":
    sys.exit(main())
