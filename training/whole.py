"""Files that are there as a whole or not at all, however a process ends."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file into a folder, which is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document for people and programs; ValueError where a number is not finite."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")
