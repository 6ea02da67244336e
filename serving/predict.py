"""Classify one image, or each image of a folder.

python -m serving.predict fingers hand.png                 asks the server that runs here
python -m serving.predict fingers folder/ --offline        answers from the archive, without a server: the same numbers
python -m serving.predict fingers folder/ --json           one JSON document instead of a table
python -m serving.predict fingers folder/ --explain        also writes a heat map of each image to explanations/, as PNG
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from handlers.errors import ArtifactError, RequestError
from handlers.requests.labels import Labels, shown, word_of
from serving.client import Client, RequestRefused
from serving.console import table_console
from serving.errors import NotFound, ServingError
from serving.store import local_model, model_store
from serving.store.model_store import ArchiveError

NAMES_SHOWN = 5  # names of files that are not images, in the warning
EXPLANATIONS = Path("explanations")  # the folder of heat maps
BATCH = 8  # images that are decoded and computed at once offline

Answer = dict[str, float] | str  # probabilities best first, or the error


class InputError(ServingError):
    """There is no image, or no such model."""


def images_in(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the file, or the images of a folder and its sub-folders, in order, and the files that are not images.

    The first bytes of a file decide, not its name. Links are followed, each folder is read once. Hidden files and
    folders are passed over.

    Raises:
        InputError: there is no image.
    """
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise InputError(f"{path} does not exist: name an image or a folder of images")
    files = sorted(_files_below(path))
    images = [file for file in files if _is_image(file)]
    if not images:
        raise InputError(f"{path} holds no image among its {len(files)} files: name an image or a folder of images")
    return images, sorted({*files} - {*images})


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    visited: set[tuple[int, int]] = set()  # a link may lead back to a folder that holds it
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        place = os.stat(parent)
        is_new = (place.st_dev, place.st_ino) not in visited
        visited.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if is_new and not name.startswith("."))
        yield from (Path(parent, name) for name in names if is_new and not name.startswith("."))


def _is_image(path: Path) -> bool:
    from handlers.images import pillow
    from handlers.images.kinds import START_BYTES

    if not path.is_file():  # a link to nothing, a pipe
        return False
    with open(path, "rb") as file:
        return pillow.begins_as_image(file.read(START_BYTES))


def _warn_of_other_files(files: Sequence[Path]) -> None:
    """Warn on standard error about the files that are not sent."""
    if files:
        end = f" and {len(files) - NAMES_SHOWN} more" if len(files) > NAMES_SHOWN else ""
        names = ", ".join(ascii(str(file))[1:-1] for file in files[:NAMES_SHOWN])
        print(f"not images, so not sent: {names}{end}", file=sys.stderr)


def online(name: str, paths: Sequence[Path], version: str | None = None, *, client: Client) -> Iterator[Answer]:
    """Yield the server's answer for each file.

    Raises:
        ClientError: the server does not answer.
        InputError: it has no such model.
    """
    try:
        for answer in client.predict_many((path.read_bytes() for path in paths), name, version):
            yield (
                answer.message
                if isinstance(answer, RequestRefused)
                else Labels(answer.probabilities, answer.familiarity)
            )
    except NotFound as error:
        served = client.models()
        if version is not None and name in served:
            raise InputError(f"{name} {version} is not served here, only {_versions(client, name)}") from error
        raise InputError(f"{name} is not served here, only {', '.join(served) or 'nothing'}") from error


def _versions(client: Client, name: str) -> str:
    versions = sorted((status.version for status in client.versions(name)), key=model_store.order)
    return ", ".join(f"{name} {version}" for version in versions)


def write_explanations(folder: Path, path: Path, images: Sequence[Path], name: str, version: str | None) -> int:
    """Write the server's heat map of each of the `images` at or below `path` to `folder`; return how many.

    Images that the server refuses have none: their answers say why.

    Raises:
        ClientError: the server does not answer.
        OSError: a file cannot be written.
    """
    written = 0
    with Client() as client:
        for image in images:
            target = folder / (image.name if image == path else image.relative_to(path))
            try:
                picture = client.explain_png(image.read_bytes(), name, version)
            except NotFound:
                raise
            except RequestRefused:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(f"{target.name}.png").write_bytes(picture)
            written += 1
    return written


def offline(
    weights: Path, paths: Sequence[Path], settings: dict[str, Any] | None, *, observes: bool = False
) -> Iterator[Answer]:
    """Yield the answer of a worker with these settings (`handler` of model-config.yaml) for each file.

    If it `observes`, an answer has the statistics and the embedding of its image.

    Raises:
        ArchiveError: the artifact cannot be read.
    """
    from handlers.golden import GoldenError
    from handlers.service import load
    from handlers.settings import Settings

    try:
        classifier = load(weights, Settings.read(settings), largest=min(BATCH, len(paths)))
    except (ArtifactError, GoldenError) as error:
        raise ArchiveError(str(error)) from error
    classifier.observes = observes
    parts = (paths[first : first + BATCH] for first in range(0, len(paths), BATCH))
    for answers in classifier.classify_all([path.read_bytes() for path in part] for part in parts):
        for answer in answers:
            yield str(answer) if isinstance(answer, RequestError) else answer


def answers(arguments: argparse.Namespace, paths: Sequence[Path], unpacked: ExitStack) -> tuple[str, Iterator[Answer]]:
    """Return the name of the answering model, and the answers; an archive stays unpacked until `unpacked` closes."""
    name, version = arguments.name, arguments.version
    if not arguments.offline:
        client = unpacked.enter_context(Client())
        return f"{name} {version or '(default version)'} at {client.inference}", online(
            name, paths, version, client=client
        )
    model = unpacked.enter_context(local_model.opened(name, version))
    return f"{model.source}, offline", offline(model.weights, paths, model.settings)


@contextmanager
def counted(paths: Sequence[Path], results: Iterator[Answer]) -> Iterator[Iterator[tuple[Path, Answer]]]:
    """Yield files and their answers, and show the progress on a terminal's error stream."""
    with Console(stderr=True, markup=False, emoji=False).status("") as status:

        def count() -> Iterator[tuple[Path, Answer]]:
            for number, pair in enumerate(zip(paths, results, strict=True)):
                yield pair
                status.update(f"{number + 1:,} of {len(paths):,} images answered")

        status.update(f"0 of {len(paths):,} images answered")
        yield count()


def show(who: str, paths: Sequence[Path], results: Iterator[Answer], console: Console) -> int:
    """Print a table; return how many files had no answer."""
    with counted(paths, results) as answered:
        answers = list(answered)
    has_bank = any(_familiarity(answer) is not None for _, answer in answers)
    table = Table(title=who)
    table.add_column("image", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    if has_bank:
        table.add_column("familiarity", justify="right")
    table.add_column("next labels, or the error")
    for path, answer in answers:
        if isinstance(answer, str):
            table.add_row(str(path), "-", "-", *["-"] * has_bank, answer, style="red")
            continue
        (label, probability), *next_labels = answer.items()
        next_best = ", ".join(f"{name} {value:.2%}" for name, value in next_labels[:2])
        familiarity = [_familiarity(answer)] if has_bank else []
        table.add_row(str(path), label, f"{probability:.2%}", *familiarity, next_best)
    console.print(table)
    return sum(isinstance(answer, str) for _, answer in answers)


def _familiarity(answer: Answer) -> str | None:
    """Return the familiarity of an image for the table, None without one."""
    value = answer.familiarity if isinstance(answer, Labels) else None
    return None if value is None else f"{shown(value):.3f} {word_of(value)}"


def main() -> int:
    """Print the answers; return 1 if an image has none, 130 after an interrupt."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("path", type=Path, help="an image, or a folder of images")
    parser.add_argument("--version", help="a version other than the default one")
    parser.add_argument("--offline", action="store_true", help="answer without a server")
    parser.add_argument("--json", action="store_true", help="print one JSON document: file -> label -> probability")
    parser.add_argument(
        "--explain",
        type=Path,
        nargs="?",
        const=EXPLANATIONS,
        metavar="FOLDER",
        help=f"also write a heat map of each image to FOLDER (default {EXPLANATIONS}/)",
    )
    arguments = parser.parse_args()
    if arguments.explain and arguments.offline:
        parser.error("--explain asks a server: leave out --offline (OFFLINE=1)")
    try:
        model_store.check_name(arguments.name)
        paths, other_files = images_in(arguments.path)
        _warn_of_other_files(other_files)
        with ExitStack() as unpacked:
            who, results = answers(arguments, paths, unpacked)
            if arguments.explain:
                results = iter(list(results))  # the reasons of a model that is not served come first
                written = write_explanations(
                    arguments.explain, arguments.path, paths, arguments.name, arguments.version
                )
                print(f"{written} of {len(paths)} heat maps written to {arguments.explain}", file=sys.stderr)
            if arguments.json:
                with counted(paths, results) as answered:
                    by_file = {str(path): answer for path, answer in answered}
                # A label may be "error" too: its value is a number, a refusal's value is text.
                refused = {file: {"error": answer} for file, answer in by_file.items() if isinstance(answer, str)}
                print(json.dumps({**by_file, **refused}, indent=2))
                return int(bool(refused))
            return int(show(who, paths, results, table_console()) > 0)
    except (ServingError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
