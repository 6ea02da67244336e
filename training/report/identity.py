"""Whether a report is up to date: the page carries a hash of all that it shows and of the code that shows it.

Nothing here is slow to import.
"""

import hashlib
from pathlib import Path

from handlers.run_folder import RunFolder

HEAD = 4096  # bytes of the page, among them its key
CODE = (Path(__file__).parent, Path(__file__).parents[1] / "pages")
MEASURES = ("corruptions.py", "robustness.py", "speed.py")


def report_key(run: RunFolder, evaluation: str) -> str:
    """Return the key of the report of a run whose evaluation has the key `evaluation`."""
    key = hashlib.sha256(evaluation.encode())
    code = [path for folder in CODE for path in sorted(folder.iterdir()) if path.suffix in (".py", ".html")]
    documents = (run.training, run.export, run.weights, run.epoch_metrics, run.robustness, run.speed)
    for path in (*code, *documents):
        key.update(path.read_bytes() if path.is_file() else b"none")
    for form in (run.int8_model, run.compiled_model):  # large: their presence and size
        key.update(str(form.stat().st_size if form.is_file() else None).encode())
    return key.hexdigest()[:32]


def measured_key(evaluation: str) -> str:
    """Return the key of measurements that are made on request, for an evaluation with the key `evaluation`."""
    key = hashlib.sha256(evaluation.encode())
    for name in MEASURES:
        key.update(Path(__file__).with_name(name).read_bytes())
    return key.hexdigest()[:32]


def is_current(run: RunFolder, key: str) -> bool:
    """Return whether the report with this key is written."""
    try:
        with open(run.report, "rb") as file:
            return f'content="{key}"'.encode() in file.read(HEAD)
    except OSError:
        return False
