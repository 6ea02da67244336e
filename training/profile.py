"""Where the time of training and of inference goes, for several networks on one prepared data set.

    python -m training.profile dataset=petals store=petals --name petals-profile --networks resnet18 vgg16
    python -m training.profile ... --no-compile          without torch.compile, which takes a minute for each network

Each network is trained for some steps in each form: in float32, then with channels-last memory, bf16 and torch.compile
added one after the other; and answers images in each form. Its weights are thrown away. Writes runs/<name>/:
profile.html with pictures, profile.json, and Chrome traces of one training step and of one batch of answers of each
network.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from handlers import naming
from handlers.atomic import write_json
from handlers.machine import share_cores
from handlers.run_folder import RUNS, RunFolder
from training.configuration import ConfigurationError, TrainingError, compose, plain, store_folder
from training.console import message_of
from training.data.records import DatasetError
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.networks import build
from training.precision import choose_device, use_all_cores
from training.profiling import inference, page, training_step
from training.run import input_statistics, machine, versions

NETWORKS = ("resnet18", "vgg16", "efficientnet_lite0")
LARGEST_BATCH = 16  # of training: on a CPU, a step of VGG-16 with 64 images takes a minute
STEPS = 8
INPUT = (
    "image_size",
    "colour",
    "resize",
    "crop_fraction",
    "interpolation",
)  # of the store, whatever the weights expect


class Profile:
    """Measures networks on one prepared data set, and keeps the rows."""

    def __init__(self, data: PreparedDataset, folder: Path, steps: int, *, compiled: bool, say: Callable[[str], None]):
        self._data, self._folder, self._steps, self._compiled, self._say = data, folder, steps, compiled, say
        self.training: list[dict[str, Any]] = []
        self.inference: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []

    def add(self, network: str, settings: dict[str, Any]) -> None:
        """Measure a network with the settings of a run."""
        data, device = self._data, choose_device(settings["trainer"]["device"])
        split = data.split(SplitSpec.from_config(settings["split"]))
        spec = data.preprocess(*input_statistics(settings, data, split))
        encoded = inference.encoded_images(data, split)
        for form in training_step.forms(device, compiled=self._compiled):
            trace = self._folder / f"{network}-{form.title}.trace.json"
            measure = partial(training_step.measure, settings, data, split, spec, form, self._steps, trace)
            self.training.append(self._row(network, form.title, measure, "trains "))
        module = build(settings["network"], len(data.classes), spec.channels, spec.image_size).eval()
        for answer in inference.forms(module, data, split, spec, device, compiled=self._compiled):
            rate = partial(inference.rate, answer, spec, device)
            self.inference.append(self._row(network, answer.title, rate, "answers "))
        trace = self._folder / f"{network}-inference.trace.json"
        parts = partial(inference.parts, module, encoded, spec, self._steps, trace)
        self.answers.append(self._row(network, "parts of an answer", parts))

    def _row(self, network: str, form: str, measure: Callable[[], dict[str, Any]], verb: str = "") -> dict[str, Any]:
        """Return a measurement, or the reason why there is none: a compiler raises anything."""
        start = time.perf_counter()
        try:
            row = {"network": network, "form": form, **measure()}
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._say(f"{network}, {form}: not measured: {reason}")
            return {"network": network, "form": form, "error": reason}
        rate = f"{verb}{row['images_per_second']:g} images/s" if "images_per_second" in row else "measured"
        self._say(f"{network}, {form}: {rate} (after {time.perf_counter() - start:.0f} s)")
        return row


def profile(
    name: str,
    networks: Sequence[str],
    base: Sequence[str],
    *,
    steps: int = STEPS,
    compiled: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Profile the networks with the settings `base`, and return the page.

    Raises:
        ConfigurationError: a setting is impossible, or the name is none.
        DatasetError: there is no such prepared data set, or its raw images are gone.
    """
    if fault := naming.fault_of_run(name):
        raise ConfigurationError(fault)
    if RunFolder(RUNS / name).config.exists():
        raise ConfigurationError(f"runs/{name} is a run: give the profile another --name")
    base = [*base, f"name={name}"]
    data = PreparedDataset.open(store_folder(compose([*base, f"network={networks[0]}"])))
    base += (f"dataset.{setting}={getattr(data, setting)}" for setting in INPUT)
    settings = {network: plain(compose([*base, f"network={network}"])) for network in networks}
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    use_all_cores()
    measured = Profile(data, folder, steps, compiled=compiled, say=say)
    document = {
        "name": name,
        "dataset": data.name,
        "side": data.image_size,
        "inference_batch": inference.BATCH,
        "machine": machine(choose_device(settings[networks[0]]["trainer"]["device"]).type),
        "versions": versions(),
        "training": measured.training,
        "inference": measured.inference,
        "answers": measured.answers,
    }
    for network, node in settings.items():
        batch = min(LARGEST_BATCH, node["trainer"]["batch_size"])
        measured.add(network, {**node, "trainer": {**node["trainer"], "train_size": None, "batch_size": batch}})
        write_json(folder / "profile.json", document)  # after each network: a long profile may be interrupted
        page.write(document, folder / "profile.html")
    return folder / "profile.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of training")
    parser.add_argument("--name", required=True, help="folder of the profile below runs/")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"default {' '.join(NETWORKS)}")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of training, in each form (default {STEPS})")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    options = parser.parse_intermixed_args(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write a line for each trace
    try:
        if options.steps < 1:
            raise ConfigurationError(f"--steps is {options.steps}: give at least 1")
        written = profile(
            options.name,
            [name for names in options.networks for name in names.split()],
            options.settings,
            steps=options.steps,
            compiled=not options.no_compile,
            say=lambda line: print(line, flush=True),
        )
    except (ConfigurationError, DatasetError, TrainingError, OSError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    print(f"{written}: tables and pictures; the traces beside it open in chrome://tracing")
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
