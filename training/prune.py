"""Remove the channels of a run's network that matter least, and fine-tune the rest: a smaller and faster network.

    python -m training.prune moths                                      runs/moths-pruned, with half of the channels
    python -m training.prune moths --name moths-narrow --channels 0.3   70 % of them stay
    python -m training.prune moths teacher=null trainer.epochs=60       without the unpruned network as teacher

A channel goes with all weights that need it, those with the smallest norms first, the same part of each layer (Fang et
al. 2023, "DepGraph", arXiv:2301.12900). Without fine-tuning the accuracy collapses. It takes data, split, augmentation
and the settings that are not among `pruning.trainer` from the run, and the run as teacher. The result is a run like any
other, which resumes, is evaluated, archived and deployed as such.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from handlers import naming
from handlers.machine import share_cores
from handlers.run_folder import RunFolder
from training import configuration
from training.configuration import ConfigurationError, TrainingError, near, plain, store_folder
from training.console import INTERRUPTED, message_of
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.finished_run import FinishedRun, check_data
from training.train import check_numbers, train
from training.transfer import teacher

if TYPE_CHECKING:
    from training.narrowing import Shapes
    from training.networks import Network

CHANNELS = 0.5
# Settings that may follow the name of the run; the others are those of the run.
SETTINGS = ("trainer", "distillation", "teacher", "seed")
SOME_STEPS = 1000  # of a schedule that is only checked


def prune(
    name: str,
    target: str,
    channels: float,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Prune the network of the run `name` into the run `target`, fine-tune and export it; return its folder.

    Args:
        channels: part of the channels of each layer that is removed.
        overrides: settings as `trainer.epochs=60`.

    Raises:
        ConfigurationError: there is no such finished run, its network cannot be pruned, or a setting is impossible.
        DatasetError: its prepared data set is gone or has changed.
        TrainingError: the loss is not finite.
    """
    if not 0 < channels < 1:
        raise ConfigurationError(f"--channels is {channels:g}: give the part to remove, above 0 and below 1")
    if fault := naming.fault_of_run(target):
        raise ConfigurationError(fault)
    if target == name:
        raise ConfigurationError(f"--name {target} is the run itself: give the pruned one another name")
    source, files = FinishedRun.open(name), RunFolder.of(target)
    config = settings_of(source, target, channels, overrides)
    check_numbers(plain(config)["trainer"])
    data = PreparedDataset.open(store_folder(config))
    check_data(source.files.model, source.spec, data)
    config = teacher.with_digest(config, data)

    from training.optimizers import make_optimizer, make_schedule  # these bring torch
    from training.pruning import remove_channels, save

    network, rebuild, shape = _trained(source, config, data)
    before = sum(weight.numel() for weight in network.parameters())
    config.network.shapes = remove_channels(network, rebuild, shape, channels)
    config.network.weights = str(files.pruned)
    after = sum(weight.numel() for weight in network.parameters())
    trainer = plain(config)["trainer"]
    make_schedule(make_optimizer(network, trainer), trainer, SOME_STEPS)  # refuses a setting before a file is written
    say(f"{target}: {after:,} of the {before:,} parameters of {name} are left")
    files.path.mkdir(parents=True, exist_ok=True)
    save(network, files.pruned)
    return train(config, say)


def _trained(
    source: FinishedRun, config: DictConfig, data: PreparedDataset
) -> tuple["Network", Callable[["Shapes"], "Network"], tuple[int, int, int]]:
    """Return the trained network of a run, a function that builds one with other shapes, and the shape of an image."""
    from training.networks import build
    from training.transfer.weights import load_checkpoint

    node = {**plain(config)["network"], "weights": None, "pretrained": False}
    node = {name: value for name, value in node.items() if name in config.network}
    channels = 3 if data.colour == "rgb" else 1

    def rebuild(shapes: "Shapes") -> "Network":
        return build({**node, "shapes": shapes}, len(data.classes), channels, data.image_size)

    network, best = rebuild(node.get("shapes") or {}), source.files.best_checkpoint
    if not best.is_file():
        command = f"rm {source.files.training}; make train NAME={source.name} DATASET={config.dataset.name}"
        raise ConfigurationError(f"{best} does not exist: train again with the settings of the run ({command})")
    load_checkpoint(network, best)
    network.eval()
    return network, rebuild, (channels, data.image_size, data.image_size)


def settings_of(source: FinishedRun, target: str, channels: float, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of the fine-tuning, but for its first weights.

    Raises:
        ConfigurationError: an override is not among `SETTINGS`, or replaces a whole node.
    """
    defaults, config = configuration.compose(), configuration.load(source.files.path)
    config.trainer = OmegaConf.merge(defaults.trainer, config.trainer, defaults.pruning.trainer)
    config.distillation, config.teacher, config.name = defaults.distillation, source.name, target
    config.pruning = {"run": source.name, "sha256": source.sha256, "channels": channels}
    # All layers learn, from the first epoch.
    changed = {"frozen_layers": 0, "freeze": "none", "unfreeze_epoch": None}
    config.network.update({key: value for key, value in changed.items() if key in config.network})
    if "transfer" in config:
        config.transfer.stages = 0
    for override in overrides:
        key, _, value = override.partition("=")
        if "=" not in override or key.partition(".")[0] not in SETTINGS:
            raise ConfigurationError(f"{override!r} is no setting of pruning: begin with {' or '.join(SETTINGS)}")
        current = OmegaConf.select(config, key, default=...)
        if current is ...:
            settings = [f"{node}.{name}" for node in ("trainer", "distillation") for name in config[node]]
            raise ConfigurationError(f"there is no setting {key!r}{near(key, settings)}")
        if isinstance(current, DictConfig):
            raise ConfigurationError(f"{override!r} replaces all of {key}: set one of its values, as in {key}.<name>=…")
        parsed = OmegaConf.select(OmegaConf.from_dotlist([override]), key)
        is_text = key in configuration.TEXT and parsed is not None
        OmegaConf.update(config, key, configuration.unquoted(value) if is_text else parsed)
    return config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.prune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run whose network is pruned")
    parser.add_argument("settings", nargs="*", metavar="key=value", help=f"settings of {', '.join(SETTINGS)}")
    parser.add_argument("--name", help="of the new run (default: <run>-pruned)")
    parser.add_argument(
        "--channels", type=float, default=CHANNELS, help=f"part of them that is removed (default {CHANNELS})"
    )
    options = parser.parse_intermixed_args(arguments)
    target = options.name or f"{options.run.replace('/', '-')}-pruned"
    try:
        prune(options.run, target, options.channels, options.settings, lambda line: print(line, flush=True))
    except (ConfigurationError, DatasetError, TrainingError, OmegaConfBaseException, OSError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    share_cores()
    sys.exit(main())
