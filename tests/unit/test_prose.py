"""Comments, docstrings and names are plain English: each folder has ceilings for odd ones, which only fall.

python -m tests.unit.test_prose [FOLDER ...]     list every place

A place is worth a look, not always a fault: "what" can be the right word. Lower a ceiling when you have removed some.
"""

import ast
import collections
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = "python -m tests.unit.test_prose"
ROOT = Path(__file__).parents[2]
# Constructions that other projects of this field write 0.2 to 0.6 times in 1,000 words.
ODD = {
    "stands": r"\bstands?\b",
    "told": r"\btold\b|\btells?\b",
    "so many": r"\bso many\b",
    "of its own": r"\bof (its|our|their|his) own\b",
    "where there is": r"\bwhere (there (is|are)|it|they|that|none|nobody)\b",
    "otherwise than": r"\botherwise than\b",
    "whoever": r"\bhimself\b|\bwhoever\b|\bsomebody\b",
    "what as a noun": r"\b[Ww]hat (is|was|are|a|the|it)\b",
    "anew": r"\banew\b",
    "by how much": r"\bby how much\b",
    "alone": r"\balone\b",
    "together": r"\btogether\b",
    "held to": r"\bheld (to|against)\b|\bholds? .* (to|against)\b",
    "is there": r"\b(is|are) (not )?there\b",
    "goes, comes": r"\bgo(es)? (on|away|first|to)\b|\bcame of\b|\bcomes (first|last|of)\b",
}
ODD_NAMES = {
    *("found", "made", "kept", "told", "asked", "done", "left", "given", "wanted", "chosen", "sent", "seen", "taken"),
    *("held", "dealt", "built", "here", "apart", "gone", "begun", "began", "lost", "cut", "each", "else", "others"),
    *("rest", "known", "said", "what", "why", "how", "so", "much", "more", "most", "least"),
}
# Odd constructions in 1,000 words, and odd names in 100 assigned names.
CEILINGS = {
    "benchmarks": (0.8, 0.2),
    "handlers": (0.1, 0.5),
    "monitoring": (0.1, 0.1),
    "pipeline": (0.1, 0.1),
    "serving": (0.3, 0.1),
    "synthetic": (0.0, 0.3),
    "training": (0.2, 0.2),
}


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring and comment."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each name that is assigned, is a parameter or is defined."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def odd_prose(folder: str) -> tuple[list[str], float]:
    """Return the places of odd constructions in a folder, and their number in 1,000 words."""
    places, words = [], 0
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, text in prose(path.read_text(encoding="utf-8")):
            words += len(re.findall(r"\w+", text))
            place = f"{path.relative_to(ROOT)}:{line}: "
            for name, pattern in ODD.items():
                places += [f"{place}{name}: {' '.join(text.split())[:120]}"] * len(re.findall(pattern, text))
    return places, 1000 * len(places) / max(words, 1)


def odd_names(folder: str) -> tuple[list[str], float]:
    """Return the places of odd names in a folder, and their number in 100 names."""
    places, total = [], 0
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, name in names(path.read_text(encoding="utf-8")):
            total += 1
            places += [f"{path.relative_to(ROOT)}:{line}: {name}"] * (name.strip("_") in ODD_NAMES)
    return places, 100 * len(places) / max(total, 1)


def worst(places: list[str], files: int = 3, lines: int = 6) -> str:
    """Return the files with the most places, each with its first ones."""
    by_file: dict[str, list[str]] = collections.defaultdict(list)
    for place in places:
        by_file[place.partition(":")[0]].append(place)
    order = sorted(by_file.values(), key=len, reverse=True)[:files]
    return "\n".join(f"{group[0].partition(':')[0]}, {len(group)}:\n  " + "\n  ".join(group[:lines]) for group in order)


def message(folder: str, measured: str, ceiling: float, places: list[str]) -> str:
    """Return a failure's message: figure, ceiling, command for all places, and the worst ones."""
    return f"{folder} has {measured}, at most {ceiling}. All places: {COMMAND} {folder}\n{worst(places)}"


@pytest.mark.parametrize("folder", CEILINGS)
def test_prose_has_few_odd_constructions(folder: str) -> None:
    (places, rate), ceiling = odd_prose(folder), CEILINGS[folder][0]
    assert rate <= ceiling, message(folder, f"{rate:.2f} odd constructions in 1,000 words", ceiling, places)


@pytest.mark.parametrize("folder", CEILINGS)
def test_few_names_are_participles_or_pronouns(folder: str) -> None:
    (places, share), ceiling = odd_names(folder), CEILINGS[folder][1]
    assert share <= ceiling, message(folder, f"{share:.2f} odd names in 100", ceiling, places)


def test_the_worst_places_come_with_their_lines() -> None:
    places = ["a.py:1: found", "b.py:1: made", "b.py:7: kept", "b.py:9: told"]
    assert worst(places, files=1, lines=2) == "b.py, 3:\n  b.py:1: made\n  b.py:7: kept"


def test_every_package_has_ceilings() -> None:
    assert set(CEILINGS) == {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stands", "The label stands in the file name."),
        ("told", "It is told apart by its header."),
        ("so many", "There are so many images."),
        ("of its own", "It runs in a process of its own."),
        ("where there is", "A GPU is used where there is one."),
        ("otherwise than", "It answers otherwise than before."),
        ("whoever", "It waits for whoever holds the lock."),
        ("what as a noun", "Remove what is old."),
        ("anew", "The table is made anew."),
        ("by how much", "It says by how much they differ."),
        ("alone", "The size alone decides."),
        ("together", "They are sent together."),
        ("held to", "It holds its answers to the golden ones."),
        ("is there", "The file is not there."),
        ("goes, comes", "Training goes on."),
    ],
)
def test_each_odd_construction_is_recognized(name: str, text: str) -> None:
    assert [key for key, pattern in ODD.items() if re.search(pattern, text)] == [name]


def test_comments_docstrings_and_names_are_all_read() -> None:
    source = '"""Module."""\n\n\nclass Kept:\n    """Class."""\n\n    def made(self, told):\n        found = 1  # why\n'
    assert [text for _, text in prose(source)] == ["Module.", "Class.", "why"]
    assert sorted(name for _, name in names(source)) == ["Kept", "found", "made", "self", "told"]


if __name__ == "__main__":
    for folder in sys.argv[1:] or CEILINGS:
        print("\n".join([*odd_prose(folder)[0], *odd_names(folder)[0]]))
