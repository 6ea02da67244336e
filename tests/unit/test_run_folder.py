"""The files of a run have the names that older runs have, and product code names them in one place."""

import ast
from pathlib import Path

from handlers.run_folder import RunFolder
from handlers.spec import ARTIFACTS

ROOT = Path(__file__).parents[2]
FILES = {
    "config": "config.yaml",
    "environment": "environment.txt",
    "checkpoints": "checkpoints",
    "key": "checkpoints/key",
    "planned_epochs": "checkpoints/epochs",
    "epoch_metrics": "metrics.csv",
    "curves": "curves.png",
    "first_checkpoint": "checkpoints/first.ckpt",
    "best_checkpoint": "checkpoints/best.ckpt",
    "last_checkpoint": "checkpoints/last.ckpt",
    "model": "model.pt",
    "compiled_model": "model.pt2",
    "int8_model": "model.int8.pt",
    "golden": "golden.json",
    "familiarity": "familiarity.bin",
    "reference": "drift.bin",
    "export": "export.json",
    "weights": "weights.json",
    "pruned": "pruned.pt",
    "validation": "validation.npz",
    "choice": "choice.json",
    "deployed": "deployed.npz",
    "training": "train.json",
    "evaluation": "evaluation",
    "metrics": "evaluation/metrics.json",
    "scores": "evaluation/scores.json",
    "predictions": "evaluation/predictions.npz",
    "mistakes": "evaluation/mistakes.png",
    "robustness": "evaluation/robustness.json",
    "speed": "evaluation/speed.json",
    "served": "evaluation/served.json",
    "report": "report.html",
    "submission": "submission.csv",
    "crossvalidation": "crossvalidation.json",
    "pooled_predictions": "predictions.npz",
}
HOMES = {"handlers/golden.py", "handlers/run_folder.py", "handlers/spec.py"}
# An artifact in a temporary folder, which is no run.
ELSEWHERE = {("benchmarks/int8.py", "model.pt")}


def test_a_run_keeps_the_names_of_its_files() -> None:
    run = RunFolder.of("fingers")
    names = [name for name in vars(RunFolder) if isinstance(getattr(run, name), Path) and name != "path"]
    assert {name: getattr(run, name).relative_to("runs/fingers").as_posix() for name in names} == FILES
    assert [run.artifact(kind) for kind in ARTIFACTS] == [run.model, run.compiled_model]


def test_no_other_module_spells_the_name_of_a_file_of_a_run() -> None:
    names = {Path(file).name for file in FILES.values() if "." in file}
    for package in ("handlers", "training", "serving", "pipeline", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = path.relative_to(ROOT).as_posix()
            constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            spelled = {(module, value) for value in constants if isinstance(value, str) and value in names}
            assert module in HOMES or spelled <= ELSEWHERE, f"use handlers.run_folder.RunFolder: {spelled}"
