"""Download a raw data set: `python -m training.data.download DATASET [OUT]` (OUT defaults to data/raw/DATASET).

The data set's config names the source as `dataset.source`: `{kaggle: owner/name}`, `{kaggle_competition: name}` or
`{places365: small}`. Kaggle's sets come through kagglehub, which resumes by itself and keeps them in its own cache; OUT
becomes a link to there. Places365 comes from its authors' server: an interrupted archive is resumed, its MD5 sum is
verified, and it is unpacked beside its final place and moved there whole.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from training.configuration import CONFIGS, ConfigurationError, compose
from training.data.records import DatasetError

# Keys of a config's `dataset.source`, and their paths on Kaggle's site.
_KAGGLE = {"kaggle": "datasets", "kaggle_competition": "competitions"}
# Marks a folder that this module is filling; readers skip hidden files.
_MARK = ".downloading"
PLACES365_URL = "http://data.csail.mit.edu/places/places365/"


class Archive(NamedTuple):
    """One tar file: its name on the server, MD5 sum, top folders, and those renamed in the raw folder."""

    name: str
    md5: str
    holds: tuple[str, ...]
    renamed: dict[str, str] = {}  # noqa: RUF012 - never changed


# Names and sums as in torchvision.datasets.Places365, which renames data_256 in the same way.
PLACES365 = (
    Archive(
        "filelist_places365-standard.tar",
        "35a0585fee1fa656440f3ab298f8479c",
        ("categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"),
    ),
    Archive("val_256.tar", "e27b17d8d44f4af9a78502beb927f808", ("val_256",)),
    Archive(
        "train_256_places365standard.tar",
        "53ca1c756c3d1e7809517cc47c5561c5",
        ("data_256_standard",),
        {"data_256": "data_256_standard"},
    ),
)


def download(dataset: str, out: Path) -> Path:
    """Download `dataset` to the folder `out`, or resume an interrupted download.

    Raises:
        DatasetError: no such data set, or none that has a source, credentials or network missing, a damaged archive,
            too little disk, or an `out` with other contents; the message names the fault and the other ways to get
            images.
    """
    kind, name = source(dataset)
    if kind == "places365":
        return fetch_places365(out)
    if out.is_symlink() and out.is_dir():
        return out
    _refuse_foreign(out)
    cached = fetch_kaggle(dataset, kind, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_symlink():
        out.unlink()
    elif out.exists():
        out.rmdir()
    out.symlink_to(cached.resolve(), target_is_directory=True)
    return out


def source(dataset: str) -> tuple[str, str]:
    """Return where a data set comes from, by its config: the kind of place, and its name there.

    Raises:
        DatasetError: there is no such config, or no source in it that this module knows.
    """
    names = sorted(path.stem for path in (CONFIGS / "dataset").glob("*.yaml"))
    node = _source(dataset) if dataset in names else {}
    if not node:
        raise _nothing_to_download(dataset, names)
    kind, name = next(iter(node.items()))
    if len(node) > 1 or not ((kind in _KAGGLE and isinstance(name, str)) or (kind, name) == ("places365", "small")):
        raise DatasetError(
            f"dataset.source of {dataset} is {node}: set it to {{kaggle: owner/name}}, {{kaggle_competition: name}} "
            "or {places365: small}"
        )
    return kind, name


def _nothing_to_download(dataset: str, names: Sequence[str]) -> DatasetError:
    downloadable = ", ".join(name for name in names if _source(name))
    reason = "its config has no dataset.source" if dataset in names else "there is no such config"
    return DatasetError(
        f"there is nothing to download for {dataset!r}, {reason}: choose one of {downloadable}, or give RAW=<folder>"
    )


def _source(dataset: str) -> dict[str, Any]:
    return dict(compose([f"dataset={dataset}"]).dataset.source or {})


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder with anything in it, generated images for one, which would pass for the downloaded ones."""
    if out.is_dir() and any(out.iterdir()):
        raise DatasetError(
            f"{out} holds something that was not downloaded. Delete it, use it with RAW={out}, or give an OUT"
        )


def fetch_kaggle(dataset: str, kind: str, handle: str) -> Path:
    """Return the folder in kagglehub's cache that holds what Kaggle calls `handle`, downloaded if it is missing.

    `kind` is "kaggle" or "kaggle_competition".
    """
    # Imported here: it takes a second, and half of its functions need credentials.
    import kagglehub
    import kagglehub.config
    import requests
    from kagglehub.exceptions import KaggleApiHTTPError, UnauthenticatedError

    page = f"https://www.kaggle.com/{_KAGGLE[kind]}/{handle}"
    try:
        credentials = kagglehub.config.get_kaggle_credentials()
    except ValueError as error:
        raise DatasetError(f"{error}. Write it again from your Kaggle account's page") from error
    if credentials is None:
        raise DatasetError(_missing_credentials(dataset, page))
    try:
        if kind == "kaggle_competition":
            return Path(kagglehub.competition_download(handle))
        return Path(kagglehub.dataset_download(handle))
    except (KaggleApiHTTPError, UnauthenticatedError) as error:
        rules = f" and accept the rules at {page}/rules" if kind == "kaggle_competition" else ""
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise DatasetError(
            f"Kaggle refused the download of {handle} (HTTP status {status}). Check that your token is still valid"
            f"{rules}, {_other_ways(dataset)}"
        ) from error
    except requests.RequestException as error:
        raise DatasetError(
            f"no network: Kaggle cannot be reached for {handle}. Connect, {_other_ways(dataset)}"
        ) from error


def _missing_credentials(dataset: str, page: str) -> str:
    rules = f" and accept the rules at {page}/rules" if "competitions" in page else ""
    return (
        f"Kaggle credentials are missing for {page}: neither KAGGLE_API_TOKEN, nor KAGGLE_USERNAME with KAGGLE_KEY, "
        f"nor ~/.kaggle/kaggle.json, nor ~/.kaggle/access_token exists. Create a token in your Kaggle account's "
        f"settings and set one of them{rules}, {_other_ways(dataset)}"
    )


def _other_ways(dataset: str) -> str:
    return (
        f"or give images that you have with `make data DATASET={dataset} RAW=<folder>`, "
        f"or generated ones with `make data DATASET={dataset} RAW=generated`"
    )


def fetch_places365(out: Path, url: str = PLACES365_URL, archives: tuple[Archive, ...] = PLACES365) -> Path:
    """Download and unpack the archives that are missing in `out`; an archive is deleted once it is unpacked."""
    if not (out / _MARK).exists():
        _refuse_foreign(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    for archive in archives:
        if all((out / name).exists() for name in archive.holds):
            continue
        file = out / archive.name
        if not file.exists():
            _fetch(url + archive.name, file, archive.md5)
        _unpack(file, out, archive)
        file.unlink()
    return out


def _fetch(url: str, file: Path, md5: str) -> None:
    """Download one file with resume: it grows as `<name>.part`, and gets its name once its sum is right."""
    part = file.with_name(file.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer:
            # 416: the part is whole already, and only its sum was left to be checked.
            if answer.status_code != 416:
                answer.raise_for_status()
                _store(answer, part, have if answer.status_code == 206 else 0)
    except httpx.HTTPStatusError as error:
        raise DatasetError(
            f"{url} answers with HTTP status {error.response.status_code}. Try again later, {_other_ways('places365')}"
        ) from error
    except httpx.TransportError as error:
        raise DatasetError(
            f"no network, or the connection was lost ({type(error).__name__}) at {url}. Run this again to resume, "
            f"{_other_ways('places365')}"
        ) from error
    with open(part, "rb") as stream:
        digest = hashlib.file_digest(stream, "md5").hexdigest()
    if digest != md5:
        part.unlink()
        raise DatasetError(f"{file.name} arrived damaged (MD5 {digest}, not {md5}) and was deleted. Run this again")
    part.replace(file)


def _store(answer: httpx.Response, part: Path, have: int) -> None:
    """Append the body of an answer to `part` from byte `have` on, with a progress bar."""
    remaining = int(answer.headers.get("Content-Length", 0))
    # The archive, and its unpacked contents of the same size.
    _check_disk(part, have + 2 * remaining)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns) as progress, open(part, "r+b" if have else "wb") as file:
        task = progress.add_task(part.stem, total=have + remaining if remaining else None, completed=have)
        file.seek(have)
        for block in answer.iter_raw():
            progress.advance(task, file.write(block))
        file.truncate()


def _check_disk(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DatasetError(
            f"{path.parent} has {free / 1e9:.1f} GB free, {path.stem} needs {needed / 1e9:.1f} GB with its contents. "
            "Make room, or give an OUT on another disk"
        )


def _unpack(file: Path, out: Path, archive: Archive) -> None:
    """Unpack beside the final place and move what came out there, so that a folder with its final name is whole."""
    staging = out / f".{archive.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with tarfile.open(file) as tar:
            tar.extractall(staging, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise DatasetError(f"{file} cannot be unpacked: {error}. Delete it and run this again") from error
    for item in staging.iterdir():
        target = out / archive.renamed.get(item.name, item.name)
        if not target.exists():
            os.replace(item, target)
    shutil.rmtree(staging)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 if the data set is complete, 1 if the user has to fix something first."""
    parser = argparse.ArgumentParser(prog="python -m training.data.download", description="Download a raw data set.")
    parser.add_argument("dataset", help="a config of training/configs/dataset that has a source")
    parser.add_argument("out", nargs="?", type=Path, help="folder to write (default: data/raw/DATASET)")
    options = parser.parse_args(arguments)
    try:
        print(download(options.dataset, options.out or Path("data/raw") / options.dataset))
    except (DatasetError, ConfigurationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.strerror}: {error.filename}. Make room or give another OUT", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
