"""TorchServe's `image_classifier` with our weights, and a no-op handler: their archives, and settings to search.

The stock handler supports only float32. Its settings are the workers that share the cores, the batch, and
torch.compile.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from handlers.run_folder import RunFolder

HERE = Path(__file__).parent
HANDLER = "image_classifier"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """Workers, torch threads of each, images of a batch, milliseconds that one waits, and torch.compile or not.

    `workers` 0 is the default of TorchServe: a worker a core, all threads in each, no batches.
    """

    workers: int = 0
    threads: int = 0
    batch: int = 1
    delay: int = 0
    compiled: bool = False

    @property
    def title(self) -> str:
        """Return it in words."""
        if not self.workers:
            return "defaults"
        network = "torch.compile" if self.compiled else "TorchScript"
        return f"{self.workers} worker(s) x {self.threads} thread(s), batch {self.batch}, {network}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of the server: torch reads its threads from them."""
        return {"OMP_NUM_THREADS": str(self.threads or len(os.sched_getaffinity(0)))}

    def model_config(self) -> dict[str, Any]:
        """Return its model-config.yaml; empty for the defaults."""
        if not self.workers:
            return {}
        compile_options = {"pt2": {"compile": {"enable": True, "backend": "inductor"}}} if self.compiled else {}
        workers = {"minWorkers": self.workers, "maxWorkers": self.workers}
        batch = {"batchSize": self.batch, "maxBatchDelay": self.delay}
        return {**workers, **batch, "responseTimeout": 300, "startupTimeout": 300, **compile_options}


DEFAULTS = Setting()


def candidates(cores: int) -> list[Setting]:
    """Return the settings to search; the first is used without a search."""
    settings = [Setting(1, cores, 8, 10), Setting(1, cores), Setting(1, cores, 8, 10, compiled=True)]
    if cores > 1:
        settings += [Setting(cores, 1), Setting(cores, 1, 8, 10), Setting(cores, 1, 8, 10, compiled=True)]
    return settings


def build(name: str, setting: Setting, run: Path, store: Path) -> Path:
    """Build `<store>/<name>-1.0.mar` of the stock handler with the weights of a run of ResNet-18, and return it."""
    import torch

    from handlers.network import torchscript

    weights = RunFolder(run).model
    loaded = torchscript.load(weights)
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "index_to_name.json"
        labels.write_text(json.dumps({str(row): label for row, label in enumerate(loaded.spec.classes)}))
        arguments = ["--handler", HANDLER, "--extra-files", str(labels)]
        if setting.compiled:
            weights = Path(folder) / "weights.pt"
            torch.save(_state(loaded.module.state_dict()), weights)
            arguments += ["--model-file", str(HERE / "stock_network.py")]
        return pack(name, store, setting.model_config(), *arguments, "--serialized-file", str(weights))


def build_noop(name: str, config: Mapping[str, Any], store: Path) -> Path:
    """Build the archive of the handler that does nothing, with the batches of ours."""
    return pack(name, store, config, "--handler", str(HERE / "noop_handler.py"))


def pack(name: str, store: Path, config: Mapping[str, Any], *arguments: str) -> Path:
    """Run torch-model-archiver and return the archive that it wrote."""
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.prefix) / "bin" / "torch-model-archiver"), "--model-name", name, "--version", "1.0"]
        command += ["--export-path", folder, "--archive-format", "zip-store", *arguments]
        if config:
            file = Path(folder) / "model-config.yaml"
            file.write_text(yaml.safe_dump(dict(config)))
            command += ["--config-file", str(file)]
        # It uses a folder with the model's name in TMPDIR.
        subprocess.run(command, env={**os.environ, "TMPDIR": folder}, check=True, capture_output=True)
        return Path(shutil.move(Path(folder) / f"{name}.mar", store / f"{name}-1.0.mar"))


def _state(traced: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict under torchvision's names."""
    heads = {"head.weight": "fc.weight", "head.bias": "fc.bias"}
    return {heads.get(name, name.removeprefix("body.")): value for name, value in traced.items()}
