"""The pages of the documentation say what the results say, and nothing else."""

import json
from pathlib import Path

import pytest

from benchmarks import readme, result, sweep
from benchmarks.comparison import figures as serving_figures
from benchmarks.pages import markdown, results

SCORE = {"value": 0.995, "low": 0.99, "high": 0.998}
RUN = {
    "images": {"train": 90, "validation": 10, "test": 200},
    "classes": 12,
    "network": "resnet18",
    "image_size": 64,
    "parameters": 11_176_396,
    "train_seconds": 90.0,
    "top_1": SCORE,
    "served": {"top1": 0.995, "agree": 200, "images": 200, "precision": "fp32"},
    "machine": {"processor": "Chip", "cores": 2, "device": "cpu"},
    "versions": {"torch": "2.15.0"},
}


def block(name: str, body: str = "*Old.*") -> str:
    return f"before\n<!-- table:{name} -->\n\n{body}\n\n<!-- /table:{name} -->\nafter\n"


def test_a_table_is_made_of_its_results(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "fingers.json").write_text(json.dumps(RUN))
    text = readme.render(block("real"), tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| Fingers "))
    assert (
        "**99.50 %** (99.0 to 99.8)" in row
        and "| 100 | 200 | 12 | resnet18, 64 x 64 | 11.18 M | 1.5 min, 2 cores |" in row
    )
    assert "99.50 % in fp32; 200 of 200 agree" in row and "Old" not in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert readme.render(text, tmp_path) == text


@pytest.mark.parametrize("name", list(results.TABLES))
def test_what_has_no_result_is_not_claimed(name: str, tmp_path: Path) -> None:
    assert f"\n\n{markdown.NOT_MEASURED}\n\n" in readme.render(block(name), tmp_path)


def test_a_row_without_a_result_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "fingers.json").write_text(json.dumps(RUN))
    moths = next(line for line in readme.render(block("real"), tmp_path).splitlines() if line.startswith("| Moths"))
    assert "not measured" in moths and "%" not in moths


def test_the_training_table_shows_both_rates_and_their_ratio(tmp_path: Path) -> None:
    document = {
        "network": "resnet18",
        "dataset": "petals",
        "image_size": 64,
        "batch_size": 32,
        "rounds": 10,
        "images_per_second": {"loader": 1980.0, "resident": 2000.0, "not augmented": 2500.0},
        "ratio": 0.99,
        "ratio_range": [0.97, 1.01],
        "augmentation_share": 0.2,
        "machine": RUN["machine"],
        "versions": RUN["versions"],
    }
    (tmp_path / "training.json").write_text(json.dumps(document))
    text = readme.render(block("training"), tmp_path)
    assert "petals images read by the loader | 1,980 |" in text and "stays on the device | 2,000 |" in text
    assert "| 99.0 % (97.0 to 101.0) |" in text and "augmentation takes | 20.0 % |" in text


def test_the_formats_table_has_a_row_a_format_and_precision(tmp_path: Path) -> None:
    rows = [
        {"format": name, "precision": precision, "batch": batch, "images_per_second": pace * batch}
        for name, pace in (("torchscript", 100.0), ("pt2", 90.4))
        for precision in ("fp32", "bf16")
        for batch in (1, 32)
    ]
    document = {
        "network": "resnet18",
        "image_size": 224,
        "classes": 12,
        "threads": 2,
        "command": "python -m benchmarks.formats",
        "rows": rows,
        "machine": RUN["machine"],
        "versions": RUN["versions"],
    }
    (tmp_path / "formats.json").write_text(json.dumps(document))
    text = readme.render(block("formats"), tmp_path)
    assert "| precision | batch 1 | batch 32 |" in text
    assert "| torchscript | fp32 | 100 | 3,200 |" in text and "| pt2 | bf16 | 90 | 2,893 |" in text


def test_the_table_of_decoders_marks_the_best(tmp_path: Path) -> None:
    def row(kind: str, decoder: str, milliseconds: float, difference: int) -> dict[str, object]:
        far = {"milliseconds": milliseconds, "largest_difference": difference}
        return {"format": kind, "size": "200 x 200", "decoder": decoder, **far}

    document = {
        "rows": [row("JPEG", "ours", 0.25, 0), row("JPEG", "theirs", 0.2, 40), row("WEBP", "theirs", 0.5, 1)],
        "best": {"JPEG 200 x 200": "ours", "WEBP 200 x 200": "theirs"},
        "missing": {"OpenCV": "not installed: remedy"},
        "side": 224,
        "number_of_rounds": 15,
        "faithful": 10,
        **{name: RUN[name] for name in ("machine", "versions")},
    }
    (tmp_path / "decoders.json").write_text(json.dumps(document))
    text = readme.render(block("decoders"), tmp_path)
    assert "| decoder | JPEG 200 x 200 | WebP 200 x 200 |" in text
    assert "| ours | **0.25** (0) |  |" in text and "| theirs | 0.20 (40) | **0.50** (1) |" in text
    assert "| OpenCV | not installed: remedy |  |" in text and "difference is 10 or less" in text


def test_the_table_of_int8_shows_every_batch_and_what_is_missing(tmp_path: Path) -> None:
    document = {
        "network": "resnet18",
        "image_size": 224,
        "number_of_rounds": 9,
        "rows": [{"kind": "int8", "batch": batch, "images_per_second": 100.4 * batch} for batch in (1, 8)],
        "answers": {"int8": {"same_top1": 190, "images": 192, "largest_difference": 0.0213, "top1": 0.5}},
        "missing": {"int8, torchao": "not installed"},
        **{name: RUN[name] for name in ("machine", "versions")},
    }
    (tmp_path / "int8.json").write_text(json.dumps(document))
    text = readme.render(block("int8"), tmp_path)
    assert "| images/s, batch 1 | images/s, batch 8 |" in text
    assert (
        "| int8 | 100 | 803 | 190 of 192 | 0.0213 | 50.0 % |" in text
        and "| int8, torchao | not installed |  |  |  |  |" in text
    )


def test_the_tables_of_a_worker_and_of_settings(tmp_path: Path) -> None:
    about = {name: RUN[name] for name in ("machine", "versions")}
    held = [{"requests": 0.0, "anonymous_mb": 400.4}, {"requests": 20500.0, "anonymous_mb": 480.4}]
    document = {
        **about,
        "precision": "bf16",
        "starts": [3.0, 4.0, 3.5],
        "start_seconds": 3.5,
        "memory": held,
        "anonymous_mb": 480.4,
        "requests": 20500.0,
        "goals": {"start_seconds": 4.5, "anonymous_mb": 600.0},
    }
    (tmp_path / "worker.json").write_text(json.dumps(document))
    text = readme.render(block("worker"), tmp_path)
    assert "| 3.5 s (3.0 to 4.0) | 4.5 s |" in text and "20,500 requests | 400 MB, then 480 MB | 600 MB |" in text
    pairs = {"16": [(100.0, 110.0), (100.0, 120.0), (200.0, 200.0)], "large": [(10.0, 9.0)]}
    settings = {**about, "precision": "bf16", "seconds": 1.0, "number_of_rounds": 3, "command": "python -m x"}
    (tmp_path / "sweep.json").write_text(json.dumps({**settings, "rows": [sweep.row("more", pairs)]}))
    text = readme.render(block("sweep"), tmp_path)
    assert "| setting | 16 connections | 16 connections, large images |" in text
    assert "| more | 1.10 (1.00 to 1.20) | 0.90 (0.90 to 0.90) |" in text and "lowest and highest of 3 pairs" in text


def test_a_table_says_when_it_was_measured_and_what_has_changed_since(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "code").mkdir()
    code = tmp_path / "code" / "a.py"
    code.write_text("one = 1\n")
    digest = result.fingerprint(code.parent)
    run: dict[str, object] = {"commit": "0123456789abcdef", "time": "2026-11-20T10:00:00Z", "elsewhere_cores": 0.25}
    run["code"] = {"code": digest}
    about = "Commit 0123456 of 2026-11-20; used by other programs: up to 0.25 cores."
    assert result.sentences([run], tmp_path) == about
    code.write_text("one = 2\n")
    assert result.sentences([{"origins": {"a": run}}], tmp_path).endswith(" **Changed since then: code.**")
    code.unlink()
    assert result.changed([run], tmp_path) == ["code"]
    (tmp_path / "real" / "fingers.json").write_text(json.dumps(RUN | run))
    text = readme.render(block("real") + block("prepare") + block("origins"), tmp_path)
    assert "| real/fingers | (a) | Commit 0123456 of 2026-11-20; " in text and "| prepare |" not in text
    assert text.count("2 cores of Chip, cpu; torch 2.15.0") == 1 and "(a) 2 cores of Chip" in text


def test_the_short_tables_of_the_readme(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "fingers.json").write_text(json.dumps(RUN))
    text = readme.render(block("accuracy"), tmp_path)
    assert "| Fingers | **99.50 %** (99.0 to 99.8) | 1.5 min, 2 cores |" in text and "on Chip." in text
    assert f"| Moths, five-fold, pooled | {markdown.NOT_MEASURED} |  |" in text
    row = {"title": "Sightline, bf16 (two workers)", "name": "ours-bf16", "precision": "bf16"}
    document = {
        "rows": [row],
        "cells": {"ours-bf16": {"200x200": {"64": {"requests_per_second": 414.6}}}},
        "open": {},
        "elsewhere_cores": 1.92,
        "archive": {"batchSize": 16},
        **{name: RUN[name] for name in ("machine", "versions")},
    }
    (tmp_path / "serving.json").write_text(json.dumps(document))
    text = readme.render(block("rates"), tmp_path)
    assert "| Sightline, bf16 | bf16 | 415 |" in text and "Other programs used up to 1.9 cores of this machine" in text
    assert "Measured with batchSize 16; the default is now 8." in text


def test_an_origin_names_the_code_that_is_measured() -> None:
    run = result.Origin("sweep", ["--rounds", "1"]).run()
    assert run["command"] == "python -m benchmarks.sweep --rounds 1" and run["elsewhere_cores"] >= 0
    assert set(run["code"]) == {"handlers", "serving", "benchmarks/sweep.py"} and result.changed([run]) == []


def test_no_goal_is_called_met_beside_busy_programs() -> None:
    figures = serving_figures.Figures({"in-process-bf16": {"200x200": {"0": {"requests_per_second": 500.0}}}}, {})
    assert serving_figures.targets(figures)[0]["met"] is True
    assert serving_figures.targets(figures, quiet=False)[0]["met"] is None


def test_an_unknown_table_and_a_broken_result_are_refused(tmp_path: Path) -> None:
    with pytest.raises(readme.ReadmeError, match="asks for a table 'reel'"):
        readme.render(block("reel"), tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "fingers.json").write_text("{}")
    with pytest.raises(readme.ReadmeError, match="results of table 'real' are broken"):
        readme.render(block("real"), tmp_path)


def test_every_page_says_what_the_results_say() -> None:
    root = Path(__file__).parents[2]
    there = set()
    for page in readme.pages(root):
        text = page.read_text()
        assert readme.render(text, root / "benchmarks" / "results") == text, f"{page.name}: make readme"
        names = {match["name"] for match in readme.BLOCK.finditer(text)}
        there |= names
        # The README's tables are short forms of tables of other pages, which have the origins.
        assert readme.ORIGINS in names or not names or page.name == "README.md"
    assert there == {*results.TABLES, readme.ORIGINS}
