"""The settings of one archive: the content of its model-config.yaml, and their overrides."""

import copy
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from handlers.settings import Settings
from serving.store.model_store import ArchiveError

# The default model-config.yaml. An archive with this file ignores TorchServe's own time-outs, so all of them are here.
DEFAULTS: dict[str, Any] = {
    "minWorkers": None,  # None: as many as the server gives each model (default_workers_per_model)
    "maxWorkers": None,
    "batchSize": 8,  # 16 is a fifth slower with 16 connections: one worker takes all requests, the other none
    "maxBatchDelay": 1,  # milliseconds that a request waits for others
    "responseTimeout": 60,  # seconds
    "startupTimeout": 120,
    "maxRetryTimeoutInSec": 300,
    "jobQueueSize": 100,
    "handler": dataclasses.asdict(Settings()),
}
SWITCH = {"true": True, "false": False}
FORMS = {bool: "true or false", float: "a number, 0 or more"}  # of values that are neither text nor whole numbers


def configure(overrides: Sequence[str]) -> dict[str, Any]:
    """Return `DEFAULTS` with `key=value` and `handler.key=value` overrides.

    Raises:
        ArchiveError: a key that is not in `DEFAULTS`, or a value that it cannot have.
    """
    settings = copy.deepcopy(DEFAULTS)
    for override in overrides:
        _apply(override, settings)
    try:
        Settings.read(settings["handler"])
    except ValueError as error:
        raise ArchiveError(str(error)) from error
    if settings["minWorkers"]:  # TorchServe heeds it only with a maxWorkers
        settings["maxWorkers"] = max(settings["minWorkers"], settings["maxWorkers"] or 0)
    return {key: value for key, value in settings.items() if value is not None}


def _apply(override: str, settings: dict[str, Any]) -> None:
    """Set `key=value` in these settings, and `handler.key=value` in their handler section."""
    path, _, text = override.partition("=")
    section = settings["handler"] if path.startswith("handler.") else settings
    key = path.removeprefix("handler.")
    if key == "handler" or key not in section:
        raise ArchiveError(f"{path!r} is not a setting of an archive: use {', '.join(_paths())}")
    kind = type(section[key])
    if kind is str:
        section[key] = text
    elif kind is bool and text in SWITCH:
        section[key] = SWITCH[text]
    elif kind is float and re.fullmatch(r"[0-9]*\.?[0-9]+", text):
        section[key] = float(text)
    elif kind not in FORMS and text.isdecimal():
        section[key] = int(text)
    else:
        raise ArchiveError(f"{override!r}: the value must be {FORMS.get(kind, 'a whole number, 0 or more')}")


def _paths() -> list[str]:
    """Return the settings as overrides name them."""
    return [*(key for key in DEFAULTS if key != "handler"), *(f"handler.{key}" for key in DEFAULTS["handler"])]
