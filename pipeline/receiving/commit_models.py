"""The models of a commit: their settings in deploy/models.yaml, and the archives that are built of them.

An archive is built by the commit's own code, from the run in the serving folder, or in the checkout if a command of the
tests has put one there (`dvc pull`). If it would have the same files as the live one, which are the handlers, the
network, the golden images and the settings, it is no new version.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from handlers.run_folder import RUNS, RunFolder
from handlers.spec import ARTIFACTS
from pipeline.steps import next_version
from serving.store import fine_tuning, model_store
from serving.store.live import LiveModel
from serving.store.model_store import Archive

FILE = Path("deploy/models.yaml")
SETTING = re.compile(r"[A-Za-z_][\w.]*=")  # anything else would be an option of serving.archive


class ModelsError(Exception):
    """The models of a commit cannot be built; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a commit may change: the archive that is next, the live version, and the run and settings of it."""

    archive: Archive
    live: str | None
    run: Path
    kind: str
    settings: tuple[str, ...]

    def command(self, python: Path, root: Path) -> list[str]:
        """Return the command that builds the archive, if it differs from the live one."""
        run, kind = str(self.run), self.kind
        unlike = ["--unlike", self.live] if self.live is not None else []
        words = [self.archive.name, self.archive.version, "--root", str(root), "--run", run, "--format", kind, *unlike]
        return [str(python), "-m", "serving.archive", *words, *self.settings]


def settings_of(checkout: Path) -> dict[str, tuple[str, ...]]:
    """Return the settings of the models that a commit names.

    Raises:
        ModelsError: the file is none of names with lists of `key=value`.
    """
    path = checkout / FILE
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, yaml.YAMLError) as error:
        raise ModelsError(f"{FILE} cannot be read: {' '.join(str(error).split())}") from error
    models = {} if document is None else document
    if not isinstance(models, dict) or not all(
        isinstance(name, str)
        and isinstance(settings, list)
        and all(isinstance(text, str) and SETTING.match(text) for text in settings)
        for name, settings in models.items()
    ):
        raise ModelsError(f"{FILE} is no list of models: write a line such as birds: [batchSize=16] for each")
    for name in models:
        model_store.check_name(name)
    return {name: tuple(settings) for name, settings in models.items()}


def candidates(
    checkout: Path, root: Path, live: Mapping[str, LiveModel], used: Mapping[str, str], log: Callable[[str], None]
) -> Iterator[Candidate]:
    """Yield the models that are live or that the commit names, in the order of their names.

    `used` has the newest version of each model that a push has built: its archive may be gone, and answers be named so.

    Raises:
        ModelsError: the commit names a model without a run.
        ArchiveError: it names one that cannot be a model.
    """
    named, store = settings_of(checkout), root / model_store.FOLDER
    for name in sorted({*named, *live}):
        own = checkout / RUNS / name
        runs = (checkout if own.is_dir() else root) / RUNS
        run = fine_tuning.deployed(*fine_tuning.runs(name, runs)).path
        version = live[name].version if name in live else None
        before = Archive(name, version, model_store.path_of(name, version, store)) if version is not None else None
        provenance = before.provenance() if before is not None else {}
        compiled = ARTIFACTS["pt2"] in provenance.get("members", {})
        kind = "pt2" if compiled else "torchscript"
        if not RunFolder(run).artifact(kind).is_file():
            if name in named:
                raise ModelsError(f"{FILE} names {name}, and {run} has no network: train it there, or remove the line")
            log(f"{name} {version} stays: {run} has no network to build another archive from")
            continue
        settings = named.get(name, tuple(provenance.get("overrides", ())))
        version_to_compare = version if before is not None and before.path.is_file() else None
        archive_version = _next_version(name, store, used.get(name))
        archive = Archive(name, archive_version, model_store.path_of(name, archive_version, store))
        yield Candidate(archive, version_to_compare, run, kind, settings)


def _next_version(name: str, store: Path, used: str | None) -> str:
    version = next_version(name, store)
    return version if used is None else max(version, f"{int(used.partition('.')[0]) + 1}.0", key=model_store.order)
