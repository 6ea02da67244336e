"""The space of a search: settings of the configuration, each with a range or with choices."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from training.configuration import CONFIGS, ConfigurationError

if TYPE_CHECKING:
    import optuna

Value = bool | int | float | str


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A setting that is searched: between `low` and `high`, on a logarithmic scale if `log`, or one of `choices`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    @classmethod
    def parse(cls, name: str, node: object) -> "Setting":
        """Read {low, high, log} or {choices}.

        Raises:
            ConfigurationError: it is neither.
        """
        fault = ConfigurationError(
            f"the search space has {name}: {node!r}. Write {{low: 0.1, high: 1.0}}, with log: true for a logarithmic "
            "scale, or {choices: [a, b]}"
        )
        if not isinstance(node, dict):
            raise fault
        if node.keys() == {"choices"} and isinstance(node["choices"], list) and node["choices"]:
            return cls(name, choices=tuple(node["choices"]))
        low, high, log = node.get("low"), node.get("high"), node.get("log", False)
        if not node.keys() <= {"low", "high", "log"} or type(log) is not bool:
            raise fault
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            raise fault
        if not low < high or (log and low <= 0):
            raise fault
        return cls(name, low, high, log)

    def suggest(self, trial: "optuna.Trial") -> Value:
        """Return the value for a trial."""
        if self.choices:
            choice: Value = trial.suggest_categorical(self.name, self.choices)
            return choice
        if type(self.low) is int and type(self.high) is int:
            whole: int = trial.suggest_int(self.name, self.low, self.high, log=self.log)
            return whole
        number: float = trial.suggest_float(self.name, self.low, self.high, log=self.log)
        return number

    def allows(self, value: object) -> bool:
        """Return whether a value is in the space."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """The settings of a search."""

    settings: tuple[Setting, ...]

    @classmethod
    def read(cls, path: Path) -> "Space":
        """Read a YAML file: setting -> {low, high, log} or {choices}.

        Raises:
            ConfigurationError: it is damaged, or has no setting.
        """
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(document, dict) or not document:
            raise ConfigurationError(
                f"{path} names no setting: write one a line, such as trainer.lr: {{low: 0.01, high: 1}}"
            )
        return cls(tuple(Setting.parse(str(name), node) for name, node in document.items()))

    @classmethod
    def of(cls, config: DictConfig) -> "Space":
        """Return the space that fits a network: with pretrained weights, or from nothing."""
        pretrained = config.network.get("pretrained") and config.transfer.stages
        return cls.read(CONFIGS / "search" / f"{'transfer' if pretrained else 'scratch'}.yaml")

    def suggest(self, trial: "optuna.Trial") -> list[str]:
        """Return the overrides of a trial."""
        return overrides({setting.name: setting.suggest(trial) for setting in self.settings})

    def defaults(self, config: DictConfig) -> dict[str, Value]:
        """Return the values that a configuration has, without those outside the space."""
        values = {setting.name: OmegaConf.select(config, setting.name) for setting in self.settings}
        return {setting.name: values[setting.name] for setting in self.settings if setting.allows(values[setting.name])}

    def document(self) -> list[dict[str, Any]]:
        """Return the space as JSON."""
        return [{**dataclasses.asdict(setting), "choices": list(setting.choices)} for setting in self.settings]


def overrides(values: Mapping[str, Value]) -> list[str]:
    """Return `key=value` for each setting, in Hydra's words."""
    return [f"{name}={str(value).lower() if type(value) is bool else value}" for name, value in values.items()]
