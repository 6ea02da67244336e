"""The configuration of every training command: Hydra's files in `training/configs`, and `key=value` overrides."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from handlers import naming
from handlers.run_folder import RUNS, RunFolder
from training.transfer import pretrained

CONFIGS = Path(__file__).resolve().parent / "configs"
TEXT = ("name", "store", "raw", "exclude", "teacher")  # settings that are text, whatever they look like
GROUPS = ("dataset", "network", "trainer", "tracking")


class ConfigurationError(Exception):
    """A setting is unknown or has an impossible value; the message names it and the remedy."""


class TrainingError(Exception):
    """Training or export cannot continue; the message says what to change."""


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the configuration with `overrides` such as `dataset=petals` or `trainer.epochs=3` applied.

    The values of `TEXT` are taken as they are: Hydra would read `name=1.10` as a number, and run it as 1.1.

    Raises:
        ConfigurationError: an override is malformed, names no setting or no file of a group, or its value does not fit.
    """
    overrides = [_quoted_text(override) for override in overrides]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra_compose("config", overrides)
        OmegaConf.to_container(config, resolve=True)
    except ConfigCompositionException as error:
        raise ConfigurationError(_explain(error, overrides)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_one_line(str(error))) from error
    _start_from_weights(config, overrides)
    for fault in (naming.fault_of_run(str(config.name)), naming.fault_of_run(str(config.store))):
        if fault:
            raise ConfigurationError(fault)
    return config


def _start_from_weights(config: DictConfig, overrides: Sequence[str]) -> None:
    """Let the input and the trainer follow the pretrained weights, if the network has any.

    The size and the filter of the images are those of the weights; the node `transfer` replaces settings of the data
    set's own trainer, which is for a network that starts from nothing. What `overrides` set stays.

    Raises:
        ConfigurationError: there are no such weights.
    """
    if not config.network.get("pretrained"):
        return
    typed = {override.partition("=")[0].lstrip("+") for override in overrides}
    try:
        expected = pretrained.input_of(cast(dict[str, Any], OmegaConf.to_container(config.network, resolve=True)))
    except pretrained.PretrainedError as error:
        raise ConfigurationError(str(error)) from error
    followed = {"dataset.image_size": config.transfer.image_size or expected.image_size}
    followed["dataset.interpolation"] = expected.interpolation
    if config.transfer.stages:
        followed |= {f"trainer.{name}": value for name, value in config.transfer.trainer.items()}
    for name, value in followed.items():
        if name not in typed:
            OmegaConf.update(config, name, value, force_add=True)


def quoted(key: str, value: object) -> str:
    """Return `key='value'` in Hydra's grammar, for a value that holds blanks, commas, brackets or quotes."""
    # Backslashes count only before a quote, there each of them; `${` would be a reference to another setting.
    text = re.sub(r"(\\*)(?='|\Z)", r"\1\1", str(value)).replace("'", "\\'")
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return f"{key}='{text}'"


def unquoted(text: str) -> str:
    """Return a value as it was before `quoted`; one without quotes as it is."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text
    return re.sub(r"(\\+)(?=\$\{)", lambda match: match[1][: len(match[1]) // 2], str(value))


def _quoted_text(override: str) -> str:
    key, equals, value = override.partition("=")
    # "++name=" overrides as "name=" does.
    key_alone = key.removeprefix("++")
    is_text = equals and key_alone in TEXT and (key_alone, value) != ("teacher", "null")
    return quoted(key, unquoted(value)) if is_text else override


def near(name: str, names: Sequence[str]) -> str:
    """Return `; near it: a, b` with the known names most like `name`, or all known names if they are few."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"; near it: {', '.join(close)}"
    return f"; known: {', '.join(sorted(names))}" if len(names) <= 20 else ""


def _explain(error: ConfigCompositionException, overrides: Sequence[str]) -> str:
    """Say in one line which override does not fit, and which name was probably meant."""
    text = str(error)
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown and ("not in struct" in f"{text} {error.__cause__}" or "append to your config" in text):
        # Each network has other settings: suggest those of the files that the overrides select.
        groups = [override for override in overrides if override.partition("=")[0] in GROUPS]
        settings = [*_names(compose(groups if len(groups) < len(overrides) else ()))]
        return f"there is no setting {unknown[1]!r}{near(unknown[1], settings)}; `+{unknown[1]}=...` adds one"
    return _one_line(f"{text} {error.__cause__ or ''}")


def _names(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        name = f"{prefix}{key}"
        yield name
        child = OmegaConf.select(node, str(key))
        if isinstance(child, DictConfig):
            yield from _names(child, f"{name}.")


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("Config search path", "provider=", "full_key"))
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as dictionaries and lists with every reference resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def store_folder(config: DictConfig) -> Path:
    """Return the folder of the prepared data set, relative to the current directory."""
    return Path("data/processed") / str(config.store)


def run_folder(config: DictConfig) -> Path:
    """Return the folder of one trained model, relative to the current directory."""
    return RUNS / str(config.name)


def load(run: Path) -> DictConfig:
    """Return the configuration that a run was trained with.

    Raises:
        ConfigurationError: there is no such run.
    """
    path = RunFolder(run).config
    if not path.is_file():
        runs = sorted(folder.parent.name for folder in run.parent.glob("*/config.yaml"))
        others = f", or name one of {', '.join(runs[:10])}{', …' * (len(runs) > 10)}" if runs else ""
        raise ConfigurationError(f"{path} does not exist: train first (make train NAME={run.name} DATASET=…){others}")
    return cast(DictConfig, OmegaConf.load(path))


def fingerprint(document: Any) -> str:
    """Return 16 hexadecimal digits that change with anything in a JSON-like document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
