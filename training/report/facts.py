"""The facts of a report that are a name and a value: the data, the training, the provenance."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.run_folder import RunFolder
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.report.documents import Documents

Facts = list[tuple[str, str]]


def data_facts(data: PreparedDataset, split: Split) -> Facts:
    """Return the facts about the images."""
    sides = (("training", split.train), ("validation", split.validation), ("test", split.test))
    facts = [
        ("data set", f"{data.name}: {len(data):,} images of {len(data.classes):,} classes"),
        ("sides", ", ".join(f"{len(rows):,} {side}" for side, rows in sides)),
        ("transformed copies", f"{len(split.transformed):,}" if len(split.transformed) else ""),
        ("on disk", f"{megabytes(data.encoded_bytes)} in {data.raw}"),
        ("input", f"{data.image_size} x {data.image_size}, {data.colour}, {data.resize}, {data.interpolation}"),
        ("left out", ", ".join(f"{count:,} {reason}" for reason, count in data.document["left_out"].items())),
        ("fingerprint", data.fingerprint),
    ]
    return _filled(facts)


def training_facts(documents: Documents) -> Facts:
    """Return the facts about the training."""
    training, temperature = documents.training, documents.export.get("temperature") or {}
    best = training.get("best") or {}
    average = training.get("weight_average") or {}
    accuracy = average.get("accuracy", best.get("validation_accuracy"))
    epochs = f"{training.get('epochs', 0)} of {training.get('planned_epochs', 0)}" if training.get("epochs") else ""
    facts = [
        ("network", str(training.get("network", ""))),
        ("parameters", f"{training['parameters']:,}" if "parameters" in training else ""),
        ("epochs", epochs or "none: a linear head on the features of the pretrained network" * ("epochs" in training)),
        ("best epoch", f"{best['epoch']:.0f}" if epochs and best.get("epoch") is not None else ""),
        ("weights", str(average.get("says", "")).removeprefix("weights: ")),
        ("validation accuracy", f"{accuracy:.2%}" if accuracy is not None else ""),
        ("time", f"{training['seconds_of_this_start']:,.0f} s" if "seconds_of_this_start" in training else ""),
        ("computed in", str(training.get("precision", ""))),
        ("teacher", _teacher(training.get("teacher") or {})),
        ("temperature", str(temperature.get("says", ""))),
    ]
    return _filled(facts)


def provenance_facts(run: RunFolder, documents: Documents) -> Facts:
    """Return the facts that say where the network comes from."""
    training, weights = documents.training, documents.weights
    origin = (weights.get("name"), weights.get("source"), weights.get("licence"), _digest(weights))
    machine = training.get("machine") or {}
    facts = [
        ("pretrained weights", ", ".join(str(part) for part in origin if part) or "none: trained from nothing"),
        ("commit", str(documents.export.get("commit") or "")),
        ("machine", _listed(machine)),
        ("versions", _listed(training.get("versions") or {})),
        ("trained", _written(run.training)),
        ("exported", _written(run.export)),
        ("evaluated", _written(run.metrics)),
        ("key of the training", str(training.get("key", ""))),
        ("key of the evaluation", str(documents.metrics["key"])),
    ]
    return _filled(facts)


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.2f} MB"


def _filled(facts: Facts) -> Facts:
    """Return the facts that have a value."""
    return [(name, value) for name, value in facts if value]


def _digest(weights: Mapping[str, Any]) -> str:
    return f"SHA-256 {weights['sha256']}" if weights.get("sha256") else ""


def _teacher(teacher: Mapping[str, Any]) -> str:
    return f"{teacher['run']}, {teacher['weight']:g} of the loss; {_digest(teacher)}" if teacher else ""


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _written(path: Path) -> str:
    """Return when a file was written; "" without one."""
    if not path.is_file():
        return ""
    moment = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"
