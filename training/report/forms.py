"""The forms of a run's network: the size of each on disk, its speed if that was measured, and a remark."""

import dataclasses

from handlers.run_folder import RunFolder
from training.report.documents import Documents
from training.report.facts import megabytes


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """A network in one precision; `rates` are images/s by batch size, empty if not measured."""

    name: str
    file: str
    size: str
    rates: dict[str, float]
    remark: str


def forms(run: RunFolder, documents: Documents) -> list[Form]:
    """Return the forms that a run has."""
    rates = documents.speed.get("images_per_second", {})
    int8 = documents.export.get("int8") or {}
    verdict = f"offered: {int8['says']}" if int8.get("offered") else f"not offered: {int8.get('why', 'not measured')}"
    remarks = {"fp32": "the reference of the evaluation", "bf16": "the same file, rounded when it is loaded"}
    files = {"fp32": run.model, "bf16": run.model, "int8": run.int8_model}
    shown = [
        Form(name, path.name, megabytes(path.stat().st_size), rates.get(name, {}), remarks.get(name, verdict))
        for name, path in files.items()
        if path.is_file()
    ]
    if not run.int8_model.is_file():
        shown.append(Form("int8", "none", "", {}, verdict))
    if (compiled := run.compiled_model).is_file():
        shown.append(Form("compiled", compiled.name, megabytes(compiled.stat().st_size), {}, "for one processor"))
    return shown
