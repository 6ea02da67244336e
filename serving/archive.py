"""Build the archive that TorchServe loads from one trained run.

python -m serving.archive fingers 1.0                             runs/fingers/ -> model_store/fingers-1.0.mar and .json
python -m serving.archive fingers 1.1 batchSize=16 handler.top_k=3   override defaults of serving.store.model_config
python -m serving.archive fingers 1.2 --format pt2                with model.pt2, compiled for this machine's processor
python -m serving.archive fingers 1.3 --prune 3                   then keep only the newest three and the live ones
python -m serving.archive moths 1.4 --run runs/moths              the linear head of `make up` after its fine-tuning
python -m serving.archive fingers 2.0 --unlike 1.3                nothing, if it would have the same content as that

Needs runs/<name>/model.pt, or model.pt2; runs/<name>/tuned/ is packed once `make up` deployed its network. An
existing version is never overwritten, and an archive that a worker cannot serve is never written.
"""

import argparse
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from handlers import atomic, golden
from handlers.golden import GoldenError
from handlers.run_folder import RUNS, RunFolder
from handlers.spec import ARTIFACTS
from serving.errors import ServingError
from serving.store import fine_tuning, model_config, model_store, package, provenance, prune, rehearsal
from serving.store.model_store import Archive, ArchiveError


class SameContent(ArchiveError):
    """An archive would have the same content as the one that it shall differ from."""


def build(
    name: str,
    version: str,
    *,
    runs: Path = RUNS,
    run: Path | None = None,
    store: Path = model_store.FOLDER,
    overrides: Sequence[str] = (),
    kind: str = "torchscript",
    rehearse: bool = True,
    unlike: str | None = None,
) -> Archive:
    """Build `<store>/<name>-<version>.mar` and its sidecar from `run`.

    By default that is `<runs>/<name>/`, or `<runs>/<name>/tuned/` once `make up` deployed the network in it.
    The archive appears in one step: a server that lists the store never sees half of one. Before that it is rehearsed
    (`serving.store.rehearsal`), unless `rehearse` is off. `overrides` are those of `model_config.configure`, `kind` is
    one of `ARTIFACTS`, `unlike` is a version of the store.

    Raises:
        SameContent: the version `unlike` has the same network, code and settings; nothing is written.
        ArchiveError: the name, version or a setting is invalid, the run has no such artifact, the version exists, or a
            worker could not serve it.
    """
    model_store.check_name(name)
    model_store.check_version(version)
    run = run or fine_tuning.deployed(*fine_tuning.runs(name, runs)).path
    files = RunFolder(run)
    weights = files.artifact(kind)
    spec = read_spec(weights)
    archive = Archive(name, version, model_store.path_of(name, version, store))
    _refuse_existing(archive)
    settings = model_config.configure(overrides)
    if settings["handler"]["precision"] == "int8":
        _check_int8(archive, run, kind)
    _refuse_older_golden(run)
    date = provenance.date()
    store.mkdir(parents=True, exist_ok=True)
    prune.remove_unfinished(store)
    # Inside the store, so that the last step is a link within one file system; hidden, so that no server lists it.
    with tempfile.TemporaryDirectory(prefix=prune.BUILDING, dir=store) as folder:
        file, sidecar = Path(folder) / archive.path.name, Path(folder) / archive.sidecar.name
        with tempfile.TemporaryDirectory(prefix="sightline-") as scratch:
            staged = package.stage(Path(scratch), name, version, weights, settings, date)
            document = provenance.document(run, spec, settings, overrides, date, staged)
            other = model_store.find(name, unlike, store).provenance() if unlike is not None else {}
            if package.contents(document) == package.contents(other):
                raise SameContent(f"{name} {unlike} has the same content: nothing is built")
            (staged / provenance.FILE).write_text(provenance.text(document))
            package.write(staged, file)
        if rehearse:
            rehearsal.rehearse(Archive(name, version, file))
        identity = {"file": archive.path.name, "sha256": provenance.sha256(file), "bytes": file.stat().st_size}
        sidecar.write_text(provenance.text({**document, "name": name, "version": version, **identity}))
        try:
            atomic.name_once(file, archive.path)  # fails if another build was faster; a rename would overwrite it
        except FileExistsError as error:
            raise ArchiveError(_EXISTS.format(archive.path)) from error
        os.replace(sidecar, archive.sidecar)
    return archive


def _check_int8(archive: Archive, run: Path, kind: str) -> None:
    """Check that a run has an int8 network for an archive in format `kind`; warn if that may cost accuracy."""
    if kind != "torchscript":
        raise ArchiveError("handler.precision=int8 needs FORMAT=torchscript: a .pt2 holds float32 and bf16")
    files = RunFolder(run)
    if not files.int8_model.is_file():
        export = (provenance.read_json(files.export) or {}).get("int8") or {}
        reason = export.get("why", "it was never exported")
        auto = f"make archive NAME={archive.name} VERSION={archive.version} ARGS=handler.precision=auto"
        raise ArchiveError(
            f"{run} has no {files.int8_model.name} ({reason}): "
            f"export the run again, or choose another precision ({auto})"
        )
    if doubt := _doubt_of_int8(run):
        logging.getLogger(__name__).warning("int8 may cost accuracy: %s", doubt)


def _doubt_of_int8(run: Path) -> str | None:
    """Return why a run's int8 network is not offered, with the interval of its accuracy loss; None if it is."""
    about = (provenance.read_json(RunFolder(run).export) or {}).get("int8") or {}
    return None if about.get("offered") else about.get("why", "its accuracy was not measured")


def read_spec(weights: Path) -> dict[str, Any]:
    """Return the spec.json inside an artifact, without importing torch: the file is a zip.

    Raises:
        ArchiveError: there is no such file, or no spec.json in it.
    """
    if not weights.is_file():
        name = fine_tuning.name_of(weights.parent)
        model = name.partition("/")[0]
        train = f"make train NAME={model}" if name == model else f"make up RAW=<images> NAME={model}"
        command = train if weights.suffix == ".pt" else f"make archive NAME={model} FORMAT=pt2"
        raise ArchiveError(f"{weights} does not exist: {command} writes it")
    try:
        with zipfile.ZipFile(weights) as file:
            return model_store.spec_inside(file)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ArchiveError(f"{weights} holds no spec.json: export the run again (make train)") from error


_EXISTS = "{} exists and is never overwritten: choose another VERSION"


def _refuse_existing(archive: Archive) -> None:
    if archive.path.exists() and not archive.sidecar.exists():
        raise ArchiveError(f"{archive.path} has no sidecar: its build was interrupted. Remove it and build it again")
    if archive.path.exists():
        raise ArchiveError(_EXISTS.format(archive.path))


def _refuse_older_golden(run: Path) -> None:
    """Refuse golden images without pixels: a broken decoder would pass with them."""
    path = RunFolder(run).golden
    try:
        images = golden.read(path) if path.is_file() else []
    except GoldenError as error:
        raise ArchiveError(f"{run} cannot be archived: {error}") from error
    if not all(image.pixels for image in images):
        command = f"python -m training.export name={fine_tuning.name_of(run)}"
        raise ArchiveError(f"{path} was written by an older release, without pixels: export the run again ({command})")


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} archives cannot be kept: keep 1 or more")
    return number


def main() -> int:
    """Build one archive; print its path and the removed archives."""
    parser = argparse.ArgumentParser(prog="python -m serving.archive", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the model: packs runs/<name>/, or its tuned/ once that is deployed")
    parser.add_argument("version", help="the version, such as 1.0")
    parser.add_argument("--format", choices=sorted(ARTIFACTS), default="torchscript", help="format of the artifact")
    parser.add_argument("--prune", type=_at_least_one, metavar="N", help="keep only the newest N and the live ones")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of model-config.yaml")
    parser.add_argument("--run", type=Path, help="another folder of a run, such as runs/<name> after its fine-tuning")
    parser.add_argument(
        "--root", type=Path, default=Path(), help="the folder of runs/ and model_store/ (default: this)"
    )
    parser.add_argument("--unlike", metavar="VERSION", help="build nothing if that version has the same content")
    arguments = parser.parse_intermixed_args()
    try:
        model_store.check_name(arguments.name)
        root = arguments.root
        run = arguments.run or fine_tuning.deployed(*fine_tuning.runs(arguments.name, root / RUNS)).path
        options = {"run": run, "overrides": arguments.settings, "kind": arguments.format, "unlike": arguments.unlike}
        with Console(stderr=True, markup=False, emoji=False).status(
            "Packing the archive and rehearsing it in a worker ..."
        ):
            archive = build(arguments.name, arguments.version, store=root / model_store.FOLDER, **options)
        print(f"{archive.path} ({archive.path.stat().st_size / 1e6:.1f} MB) from {run}")
        if arguments.prune:
            for old in prune.prune(arguments.name, arguments.prune, root=root.resolve(), also=archive.version):
                print(f"removed {old.path.name}")
    except SameContent as error:
        print(error)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
