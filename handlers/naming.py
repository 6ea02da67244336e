"""The names that a data set, a run and a model may have: one rule, since each becomes the next."""

import re

MAX_CHARACTERS = 64  # characters
# The archiver's own rule, with an end that no file name trips over.
NAME = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9_.-]{{0,{MAX_CHARACTERS - 2}}}[A-Za-z0-9_])?")
TUNED = "tuned"  # the second stage of the run <name> is <name>/tuned
RUN_PART = re.compile(rf"(?:fold|trial)-[0-9]+|{TUNED}")  # a part of cross-validation is <name>/fold-<number>


def fault_of(name: str) -> str | None:
    """Return one line that says why a name cannot be used and which can, or None for a good one."""
    if not NAME.fullmatch(name):
        return (
            f"{name!r} cannot name a model: use 1 to {MAX_CHARACTERS} letters, digits, '_', '-' and '.', "
            "first a letter or digit, last no '-' or '.'"
        )
    if name.startswith("token"):  # TorchServe takes management requests with "/token" for renewals of a token
        return f"{name!r} cannot name a model, since TorchServe could not manage it: do not begin with 'token'"
    return None


def fault_of_run(name: str) -> str | None:
    """Return the same for a run, which may also be a fold, a trial or the second stage of another one."""
    whole, slash, part = name.partition("/")
    return fault_of(whole if slash and RUN_PART.fullmatch(part) else name)
