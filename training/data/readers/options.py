"""Checked access to a reader's options: `dataset.reader_options` in a config."""

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from training.data.records import DatasetError


def check(options: Mapping[str, Any], *names: str) -> None:
    """Refuse an option that the reader does not have.

    Raises:
        DatasetError: names the option and the nearest known one.
    """
    for name in options:
        if name not in names:
            raise DatasetError(f"reader_options has no {name!r}: {nearest(str(name), names)}")


def count(options: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    """Return a whole number of at least 1, or the default where the option is absent or null."""
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DatasetError(f"reader_options.{name} is {value!r}: give a whole number of at least 1, or null for all")
    return value


def choose(options: Mapping[str, Any], name: str, names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the chosen ones of `names`, in their order there.

    The option is absent, null or "all" for all of them, a number to take from the start, or a list of names.

    Raises:
        DatasetError: a name that is not among `names` (the message names the nearest ones), or fewer than two chosen.
    """
    value = options.get(name)
    if value is None or value == "all":
        return tuple(names)
    if isinstance(value, Sequence) and not isinstance(value, str):
        selection = _by_name(value, name, names, where)
    else:
        number = count(options, name) or 0
        if number > len(names):
            raise DatasetError(
                f"reader_options.{name} is {number}, but {where} has {len(names)}: give a smaller number"
            )
        selection = tuple(names[:number])
    if len(selection) < 2:
        raise DatasetError(f"reader_options.{name} leaves {len(selection)} of {len(names)}: choose at least two")
    return selection


def _by_name(items: Sequence[Any], name: str, names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return those of `names` that `items` lists, in the order of `names`."""
    # A Mac writes names of files in another Unicode form than people type.
    forms = {unicodedata.normalize("NFC", item): item for item in names}
    selection = set()
    for item in items:
        if (form := unicodedata.normalize("NFC", str(item))) not in forms:
            raise DatasetError(f"reader_options.{name}: {item!r} is not in {where}: {nearest(str(item), names)}")
        selection.add(forms[form])
    return tuple(item for item in names if item in selection)


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint: the names most like `name` whatever their case, or else the first few that there are."""
    folded = {item.casefold(): item for item in names}
    near = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=3)]
    if near:
        return "did you mean " + " or ".join(repr(item) for item in near) + "?"
    suffix = ", …" if len(names) > 5 else ""
    return "choose from " + ", ".join(repr(item) for item in names[:5]) + suffix
