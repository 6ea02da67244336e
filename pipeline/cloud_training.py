"""Train on Vertex AI: raw images from a bucket, checkpoints and an archive into one.

python -m pipeline.cloud_training class_folders birds /gcs/BUCKET/birds/raw 1.0 network=efficientnet_lite0

The words are the kind of data set, the name of the model, and the raw images: a folder, such as a bucket below /gcs, or
an address, such as gs://BUCKET/birds/raw, from which they are copied. The version of the archive follows, and settings.
The job sets the variables ("Prepare training code" in Vertex AI's documentation):

AIP_MODEL_DIR             the address of the archive
AIP_CHECKPOINT_DIR        the address of the run: a job that is started again continues after the last copied epoch
AIP_TENSORBOARD_LOG_DIR   the address of event files, with tracking=tensorboard
CLUSTER_SPEC              the machines of the job; one is possible

It prepares, trains, evaluates and archives as `make data train evaluate archive` do.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import fsspec

from handlers import naming
from handlers.machine import share_cores
from handlers.run_folder import RunFolder
from pipeline.run_copies import RunCopies
from pipeline.scoring.listing import is_url
from pipeline.steps import StepError, Steps, guarded
from serving import archive
from serving.errors import ServingError
from serving.fleet import archives
from serving.fleet.shared_document import below, reached
from serving.store import model_store
from training.configuration import ConfigurationError, TrainingError
from training.data.records import DatasetError

USAGE = "usage: python -m pipeline.cloud_training DATASET NAME RAW VERSION [settings of training ...]"
COPY_INTERVAL_S = 60.0  # between two copies of the run; a copy takes seconds
INTERVAL_VARIABLE = "SIGHTLINE_COPY_SECONDS"


class Job:
    """One training job, in the current folder.

    Raises:
        StepError: its variables or its words are wrong.
        AddressError: an address cannot be used.
    """

    def __init__(self, dataset: str, name: str, raw: str, version: str, environment: Mapping[str, str]) -> None:
        self.dataset, self.name, self.raw, self.version = dataset, name, raw, version
        if fault := naming.fault_of(name):
            raise StepError(fault)
        model_store.check_version(version)
        self.models, copies = (_address(environment, variable) for variable in ("AIP_MODEL_DIR", "AIP_CHECKPOINT_DIR"))
        self.events = environment.get("AIP_TENSORBOARD_LOG_DIR", "").rstrip("/")
        self.interval = _seconds(environment.get(INTERVAL_VARIABLE) or str(COPY_INTERVAL_S))
        _check_machines(environment.get("CLUSTER_SPEC", ""))
        self.copies, self.run = RunCopies(copies), RunFolder.of(name)
        self.steps = Steps("training", root=Path.cwd(), record=Path("logs") / f"cloud-training-{name}.json")
        self._copied = 0.0

    def work(self, settings: Sequence[str]) -> None:
        """Do the steps that an earlier start has not done.

        Raises:
            StepError, ServingError, DatasetError, ConfigurationError, TrainingError: a step failed.
        """
        stem = f"{self.name}-{self.version}"
        if archives.is_complete(stem, self.models):
            print(f"{self.models} has {stem}.mar: give the next one another version")
            return
        raw = self._fetched()
        # Without this, a machine that was preempted would begin again.
        if not self.run.path.exists() and self.copies.restore(self.run.path):
            print(f"{self.run.path}: continuing the run of an earlier start")
        words = (f"dataset={self.dataset}", f"name={self.name}", f"raw={raw}", *settings)
        self.steps.run("prepare", f"decoding the images in {self.raw} once", "training.data.prepare", *words)
        with self.steps.step("train", "training, unless that is done"):
            self._train(words)
        self.steps.run("evaluate", "answering the test images", "training.evaluate", f"name={self.name}")
        with self.steps.step("archive", f"building {stem}.mar"):
            archives.place(self._archive(), self.models)
        print(f"{below(self.models, stem)}.mar")

    def _fetched(self) -> Path:
        """Return the folder of the raw images, after copying them from an address."""
        if not is_url(self.raw):
            if not Path(self.raw).is_dir():
                raise StepError(
                    f"{self.raw} is not a folder: name one, or an address such as gs://BUCKET/{self.name}/raw"
                )
            return Path(self.raw).absolute()
        folder = Path("data/raw").absolute() / self.name
        with self.steps.step("fetch", f"copying {self.raw}"), reached(self.raw):
            files, path = fsspec.core.url_to_fs(self.raw.rstrip("/"))
            files.get(f"{path}/", f"{folder}/", recursive=True)
        return folder

    def _train(self, words: Sequence[str]) -> None:
        from training.configuration import compose
        from training.train import train

        train(compose(words), lambda line: print(line, flush=True), lambda row: self._copy_after(row))
        self._copy()  # without the last epochs another start would train them again

    def _copy_after(self, row: Mapping[str, float]) -> None:
        """Copy the run after an epoch, if the last copy is old; a failure costs only the time of a later start."""
        if time.monotonic() - self._copied < self.interval:
            return
        try:
            self._copy()
            print(f"copied after epoch {row['epoch']:.0f}", flush=True)
        except ServingError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)

    def _copy(self) -> None:
        self.copies.save(self.run.path)
        events = self.run.path / "tensorboard"
        if self.events and events.is_dir():
            with reached(self.events):
                files, path = fsspec.core.url_to_fs(self.events)
                files.put(f"{events}/", f"{path}/", recursive=True)
        self._copied = time.monotonic()

    def _archive(self) -> model_store.Archive:
        path = model_store.path_of(self.name, self.version)
        if path.is_file():  # an earlier attempt in this folder has built it
            return model_store.Archive(self.name, self.version, path)
        return archive.build(self.name, self.version)


def _address(environment: Mapping[str, str], variable: str) -> str:
    address = environment.get(variable, "").rstrip("/")
    if not address:
        raise StepError(f"{variable} is not set: give the job a baseOutputDirectory, or set an address")
    return address


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise StepError(f"{INTERVAL_VARIABLE} is {text!r}: set a number of seconds") from None


def _check_machines(cluster: str) -> None:
    """Refuse a job of several machines: each would train by itself, and copy its run over those of the others."""
    try:
        pools = json.loads(cluster)["cluster"] if cluster else {}
        count = sum(len(machines) for machines in pools.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StepError("CLUSTER_SPEC cannot be read: unset it, or start the job again") from None
    if count > 1:
        raise StepError(f"this job has {count} machines, and one trains: leave one pool, with replicaCount 1")


def main(arguments: Sequence[str]) -> int:
    """Do a job; return its exit code."""
    if len(arguments) < 4 or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2

    def work() -> None:
        try:
            dataset, name, raw, version, *settings = arguments
            Job(dataset, name, raw, version, os.environ).work(settings)
        except (ConfigurationError, TrainingError, DatasetError) as error:
            raise StepError(str(error)) from error

    return guarded(work)


if __name__ == "__main__":
    share_cores()
    sys.exit(main(sys.argv[1:]))
