"""Where an archive comes from."""

import datetime as dt
import os
import subprocess
from pathlib import Path

from serving.model_store import ArchiveError

DATE_VARIABLE = "SOURCE_DATE_EPOCH"  # seconds since 1970: reproducible-builds.org
OLDEST = dt.datetime(1980, 1, 1, tzinfo=dt.UTC)  # that a zip can say


def date() -> dt.datetime:
    """Return the date of what is built, whenever that is: SOURCE_DATE_EPOCH, else this code's commit, else `OLDEST`.

    Raises:
        ArchiveError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    seconds = os.environ.get(DATE_VARIABLE)
    try:
        if seconds:
            return dt.datetime.fromtimestamp(int(seconds), dt.UTC)
        committed = _git("log", "-1", "--format=%ct")
        return dt.datetime.fromtimestamp(int(committed), dt.UTC) if committed else OLDEST
    except (ValueError, OverflowError, OSError) as error:
        raise ArchiveError(
            f"{DATE_VARIABLE}={seconds} is no number of seconds since 1970: correct or unset it"
        ) from error


def commit() -> str | None:
    """Return the commit of this code, with "+" where files differ from it; None outside a git checkout."""
    head = _git("rev-parse", "HEAD")
    return head and head + ("+" if _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str | None:
    """Return what git says of this code's checkout, None where there is no git or no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
