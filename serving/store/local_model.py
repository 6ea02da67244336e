"""The model that answers without a server: that of an archive, or of a run that has none yet."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handlers.run_folder import RunFolder
from serving.store import model_config, model_store
from serving.store.live import Live
from serving.store.model_store import ArchiveError


@dataclasses.dataclass(frozen=True, slots=True)
class LocalModel:
    """Weights with golden images beside them, and their settings.

    Args:
        source: the archive or the weights, for people.
        version: empty for the weights of a run.
        settings: `handler` of model-config.yaml.
    """

    source: Path
    version: str
    weights: Path
    settings: dict[str, Any]


@contextlib.contextmanager
def opened(name: str, version: str | None = None) -> Iterator[LocalModel]:
    """Yield a version of a model: by default the live one, or else the newest one, or else that of its run.

    An archive is unpacked while the block runs.

    Raises:
        ArchiveError: there is none, or it cannot be read.
    """
    model_store.check_name(name)
    weights, live = RunFolder.of(name).model, Live.read(Path.cwd()).models
    if version is None and name in live:
        version = live[name].version  # the server's live version, which may not be the newest
    try:
        archive = model_store.find(name, version)
    except ArchiveError:
        if version is not None or not weights.is_file():
            raise
        yield LocalModel(weights, "", weights, model_config.DEFAULTS["handler"])
        return
    settings = archive.model_config().get("handler") or {}
    with archive.unpacked() as unpacked:
        yield LocalModel(archive.path, archive.version, unpacked, settings)
