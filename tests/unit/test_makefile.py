"""The verbs of the Makefile: each has help, each that README names exists, and a missing argument is one line."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
MAKEFILE = (REPOSITORY / "Makefile").read_text()
PAGES = sorted(str(path.relative_to(REPOSITORY)) for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")))
MODULES = sorted(set(re.findall(r"-m ((?:pipeline|training|serving|tests\.load)[.\w]+)", MAKEFILE)))
VERBS = {
    *(
        "help",
        "setup",
        "demo",
        "inspect",
        "up",
        "data",
        "train",
        "evaluate",
        "compare",
        "archive",
        "verify",
        "serve",
        "stop",
        "status",
    ),
    *(
        "predict",
        "deploy",
        "rollback",
        "watch",
        "load",
        "bench",
        "readme",
        "docs",
        "check",
        "test",
        "clean",
        "lock",
        "image",
    ),
}


def make(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    # The suite itself may run under make, whose own arguments are not meant for this one.
    clean = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS")
    }
    return subprocess.run(["make", *arguments], cwd=cwd, env=clean, capture_output=True, text=True, timeout=60)


def targets() -> list[str]:
    return re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, flags=re.MULTILINE)


def test_every_verb_is_there_and_has_help() -> None:
    assert set(targets()) >= VERBS
    helped = {line.split()[0] for line in make("help").stdout.splitlines() if len(line.split()) > 1}
    assert helped == set(targets())


def test_help_is_the_default() -> None:
    assert make().stdout == make("help").stdout


def test_every_verb_is_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert sorted(phony.split()) == sorted(targets())


@pytest.mark.parametrize("page", PAGES)
def test_verbs_named_in_documents_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    named = {verb for line in re.findall(r"\bmake ([a-z][a-z -]*)", _code(text)) for verb in line.split()[:1]}
    assert named <= set(targets())


def _code(text: str) -> str:
    """Only what stands in code: prose may make anything."""
    return "\n".join(re.findall(r"```.*?```|`[^`]+`", text, flags=re.DOTALL))


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_verbs_call_exist(module: str) -> None:
    assert (REPOSITORY / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize(
    ("verb", "missing"),
    [("up", "RAW"), ("inspect", "RAW"), ("archive", "VERSION"), ("predict", "IMAGE"), ("compare", "NAMES")],
)
def test_a_missing_argument_is_one_line(verb: str, missing: str) -> None:
    done = make("--dry-run", verb)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"error: {missing} is missing: make {verb} " in line


@pytest.mark.parametrize(
    "verb",
    [("evaluate",), ("drift",), ("archive", "VERSION=1.0"), ("verify", "VERSION=1.0"), ("predict", "IMAGE=x.png")],
    ids=str,
)
def test_no_name_is_not_the_name_of_a_data_set_that_nobody_named(verb: tuple[str, ...]) -> None:
    done = make("--dry-run", *verb)
    assert done.returncode == 2
    assert f"error: NAME is missing: make {verb[0]} NAME=<model>" in done.stderr.splitlines()[0]
    assert make("--dry-run", *verb, "DATASET=fingers").returncode == 0


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program that prints its arguments as JSON, in the place of Python."""
    path = tmp_path_factory.mktemp("bin") / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    path.chmod(0o755)
    return path


def commands(interpreter: Path, verb: str, *variables: str) -> list[list[str]]:
    """Return the arguments of each command that a verb runs, without its prerequisites."""
    done = make("-o", "setup", verb, f"py={interpreter}", *variables)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_arguments_reach_the_commands(interpreter: Path) -> None:
    run = functools.partial(commands, interpreter)
    (line,) = run("data", "DATASET=moths", "RAW=a folder", "AUGMENT=2", "ARGS=processes=1")
    assert line == ["-m", "pipeline.data", "moths", "--raw=a folder", "--name=moths", "augment=2", "processes=1"]
    (line,) = run("data", "DATASET=moths", "EXCLUDE=a b.csv")
    assert line == ["-m", "pipeline.data", "moths", "--raw=", "--name=moths", "--exclude=a b.csv", "augment=0"]
    (line,) = run("inspect", "RAW=a folder", "NAME=birds", "EXCLUDE=a.csv", "ARGS=transfer.image_size=64")
    assert line == [
        *("-m", "pipeline.inspect", "--raw=a folder", "--name=birds", "--exclude=a.csv", "transfer.image_size=64")
    ]
    assert run("inspect", "DATASET=moths") == [["-m", "pipeline.inspect", "--dataset=moths", "--raw=", "--name="]]
    assert run("up", "RAW=a", "NAME=b", "EXCLUDE=c.csv")[0][-1] == "--exclude=c.csv"
    exported, archived = run("archive", "NAME=moths", "VERSION=1.0", "FORMAT=pt2")
    named = json.dumps(["-m", "serving.store.fine_tuning", "moths"])  # its answer is the run
    assert exported == ["-m", "training.export", f"name={named}", "format=pt2"]
    assert archived == ["-m", "serving.archive", "moths", "1.0", "--format", "pt2"]
    assert len(run("archive", "NAME=moths", "VERSION=1.0")) == 1
    assert run("verify", "NAME=moths", "VERSION=1.0") == [["-m", "serving.verify", "moths", "1.0"]]
    assert run("deploy", "NAME=moths") == [["-m", "serving.deploy", "moths"]]
    trial = run("deploy", "NAME=moths", "REPLAY=a log", "AGREEMENT=0.9", "SHADOW=0.1", "CANARY=0.2")
    options = ["--replay=a log", "--agreement=0.9", "--shadow=0.1", "--canary=0.2"]
    assert trial == [["-m", "serving.deploy", "moths", *options]]
    assert run("deploy", "NAME=moths", "REPLAY=0") == [["-m", "serving.deploy", "moths"]]
    assert run("deploy", "NAME=a", "FLEET=a b") == [["-m", "serving.fleet.deploy", "a b", "a"]]
    assert run("rollback", "NAME=a", "FLEET=b") == [["-m", "serving.fleet.deploy", "b", "a", "--rollback"]]
    assert run("watch", "FLEET=a b") == [["-m", "serving.watch", "--fleet=a b"]]
    assert run("status", "FLEET=a b") == [["-m", "serving.fleet.status", "a b"]]
    assert run("watch", "ROLLBACK=1") == [["-m", "serving.watch", "--rollback"]]
    assert run("watch", "ROLLBACK=0") == run("watch") == [["-m", "serving.watch"]]
    assert run("load", "UI=1", "ARGS=--users 3") == [["-m", "tests.load.run", "--ui", "--users", "3"]]
    assert run("load", "UI=0", "ARGS=--users 3") == [["-m", "tests.load.run", "--users", "3"]]
    assert run("drift", "NAME=x", "RAW=a b", "VERSION=1.0", "ARGS=--out c.html")[0][2:] == [
        *("x", "--raw=a b", "--version=1.0", "--out", "c.html")
    ]
    assert run("drift", "NAME=x")[0][2:] == ["x", "--raw=", "--version="]
    assert run("predict", "NAME=x", "IMAGE=x.png", "OFFLINE=1")[0][-1] == "--offline"
    assert run("compare", "NAMES=a b", "ARGS=--json") == [["-m", "training.report.compare", "a b", "--json"]]
    assert "--builds cpu" in make("--dry-run", "setup", "CPU=1").stdout
    assert "--builds full" in make("--dry-run", "setup", "CPU=0").stdout
    assert "--builds" not in make("--dry-run", "setup").stdout


ODD = (
    'a"b',
    "a`touch made`b",
    "a$(touch made)b",
    "a$(shell touch made)b",
    "a$(b",
    "$x",
    "$$",
    "a'b",
    'it\'s "a" `b` $(c) ${d}',
    "a;b",
    "a\\b",
    "a#b",
    "50%",
    "a ",
    "ü",
)


@pytest.mark.parametrize("text", ODD)
def test_text_is_neither_run_nor_changed(text: str, interpreter: Path) -> None:
    variables = (f"NAME={text}", f"IMAGE={text}", f"RAW={text}", f"VERSION={text}", f"DATASET={text}")
    (line,) = commands(interpreter, "predict", *variables)
    assert line == ["-m", "serving.predict", text, text]
    (line,) = commands(interpreter, "data", *variables)
    assert line[:5] == ["-m", "pipeline.data", text, f"--raw={text}", f"--name={text}"]
    (line,) = commands(interpreter, "up", *variables)
    assert line[:4] == ["-m", "pipeline.up", text, text]
    (line,) = commands(interpreter, "train", *variables)
    assert line == ["-m", "training.train", f"dataset={text}", f"name={text}"]
    (line,) = commands(interpreter, "inspect", *variables, f"EXCLUDE={text}")
    assert line[2:] == [f"--dataset={text}", f"--raw={text}", f"--name={text}", f"--exclude={text}"]
    (line,) = commands(interpreter, "compare", f"NAMES={text}")
    assert line == ["-m", "training.report.compare", text]
    for verb in ("verify", "deploy", "archive"):
        (line,) = commands(interpreter, verb, *variables)
        assert line[2:] == [text, text]
    assert not (REPOSITORY / "made").exists()


@pytest.mark.parametrize(
    "verb",
    [
        "data",
        "train",
        "evaluate",
        "archive",
        "verify",
        "predict",
        "deploy",
        "rollback",
        "up",
        "inspect",
        "compare",
        "drift",
    ],
)
@pytest.mark.parametrize("variable", ["NAME", "NAMES", "VERSION", "RAW", "IMAGE", "DATASET", "EXCLUDE"])
def test_no_text_is_taken_for_an_option(verb: str, variable: str, interpreter: Path) -> None:
    good = {"NAME": "a", "NAMES": "a b", "VERSION": "1.0", "RAW": "b", "IMAGE": "c", "DATASET": "fingers"}
    variables = (f"{key}={value}" for key, value in (good | {variable: "--help"}).items())
    done = make("-o", "setup", verb, f"py={interpreter}", *variables)
    assert done.returncode == 2 and not done.stdout
    assert f'error: {variable}=--help begins with "-"' in done.stderr and len(done.stderr.splitlines()) == 1


def test_numbers_and_words_are_not_run_either(interpreter: Path) -> None:
    text = "1; touch made `touch made`"
    commands(interpreter, "up", "RAW=a", "NAME=b", f"MINUTES={text}")
    commands(interpreter, "data", "NAME=b", f"AUGMENT={text}")
    commands(interpreter, "image", f"DEVICE={text}")
    commands(interpreter, "bench", f"BENCH={text}")
    assert make("setup", f"PYTHON={text}").returncode == 2
    assert not (REPOSITORY / "made").exists()


def test_no_python_is_one_line(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    done = make("setup", "PYTHON=python-that-is-not-there", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == ("error: no python-that-is-not-there on PATH. Install Python 3.11 or 3.12")
