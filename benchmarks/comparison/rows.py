"""The rows of the serving benchmark: every server and every loop in process, and its start."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import bench_runs
from benchmarks.harness import servers
from benchmarks.harness.servers import MODEL, NotMeasured, Running
from benchmarks.peers import environment, stock
from benchmarks.traffic.bodies import Encoding
from handlers.service import threads
from serving.host.resources import Resources
from serving.store import model_config
from serving.store.model_store import ArchiveError

PRECISIONS = ("fp32", "bf16", "int8")
PEER_PORT = 9000  # moved by the offset, as all ports are
RAW, FORM, JSON = Encoding(), Encoding("form", "image"), Encoding("json", "image_data")
FORM_OF_TRITON = {"Inference-Header-Content-Length": "0"}


@dataclasses.dataclass(slots=True)
class Bench:
    """Settings of all rows: folders, ports, and the served run."""

    root: Path
    work: Path
    run: Path
    offset: int
    probe: bytes  # a small image
    precision: str = "bf16"  # of the peers that run our parts
    best: stock.Setting = stock.DEFAULTS  # settings of the stock handler
    seconds: float = 2.0  # of a loop in process
    folders: tuple[Path, ...] = ()  # of the bodies

    @property
    def model_config(self) -> dict[str, Any]:
        """Return model-config.yaml of our archives, without the precision."""
        return model_config.configure(())

    @property
    def options(self) -> list[str]:
        """Return the options of a peer for workers, threads and batches: those of our server."""
        config, shares = self.model_config, Resources.of_this_machine(1)
        workers = config.get("minWorkers")
        options = {"workers": workers or shares.workers, "threads": threads(workers) if workers else shares.threads}
        options |= {"batch": config["batchSize"], "delay": config["maxBatchDelay"]}
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def peers(self) -> Path:
        """Return the interpreter of the environment of `benchmarks.peers.environment`."""
        python = environment.python(self.root)
        if not environment.is_current(self.root):
            raise NotMeasured("no .venv-peers: python -m benchmarks.peers.environment")
        return python


Start = Callable[[Bench], AbstractContextManager[Running]]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    A served row has `start`, a row in process a `command`. `shares`: it has our weights and preprocessing, so that its
    labels must be ours. `full`: all bodies and connections are measured, otherwise only the small body.
    """

    name: str
    title: str
    precision: str
    start: Start | None = None
    command: Callable[[Bench], list[str]] | None = None
    encoding: Encoding = RAW
    ours: bool = False
    shares: bool = False
    checked: bool = True  # whether its labels are compared with ours
    full: bool = True
    chart: bool = True
    open: bool = False

    @property
    def kind(self) -> str:
        """Return "served" or "in process"."""
        return "served" if self.start else "in process"


def rows() -> list[Row]:
    """Return all rows, the strictest peer first."""
    litserve, bentoml = peer("litserve_documented", "/predict", JSON), peer("bentoml_documented", "/classify", FORM)
    stock_defaults = stock_server(stock.DEFAULTS)
    networks = {"resnet50": "ResNet-50", "vgg16": "VGG-16", "vit": "ViT"}
    small: Any = {"full": False, "chart": False}
    return [
        Row("litserve-ours", "LitServe, our parts", "bf16", peer("litserve_ours", "/predict"), shares=True, open=True),
        Row("triton-ours", "Triton, our parts", "bf16", _triton, shares=True),
        Row("openvino", "OpenVINO in process, our weights", "bf16", command=_openvino),
        Row("stock-best", "TorchServe image_classifier, best settings", "fp32", _stock_best),
        Row("stock-defaults", "TorchServe image_classifier, defaults", "fp32", stock_defaults, **small),
        Row("litserve-documented", "LitServe as documented", "fp32", litserve, encoding=JSON),
        Row("bentoml-documented", "BentoML as documented", "fp32", bentoml, encoding=FORM),
        *(_ours_row(precision) for precision in PRECISIONS),
        Row("noop", "TorchServe, a handler that does nothing", "", _noop, checked=False, chart=False),
        *(
            Row(f"in-process-{precision}", f"our parts in process, {precision}", precision, command=inside(precision))
            for precision in PRECISIONS
        ),
        *(
            Row(
                f"ours-{network}",
                f"Sightline, {title}, bf16",
                "bf16",
                ours("bf16", network),
                ours=True,
                checked=False,
                **small,
            )
            for network, title in networks.items()
        ),
    ]


def _ours_row(precision: str) -> Row:
    name, title = f"ours-{precision}", f"Sightline, {precision}"
    return Row(name, title, precision, ours(precision), ours=True, shares=True, open=precision != "fp32")


def peer(module: str, path: str, encoding: Encoding = RAW, headers: dict[str, str] | None = None) -> Start:
    """Return the start of a peer of `benchmarks.peers`."""

    def start(bench: Bench) -> AbstractContextManager[Running]:
        port = PEER_PORT + bench.offset
        command = [str(bench.peers()), "-m", f"benchmarks.peers.{module}", str(bench.run), "--port", str(port)]
        command += ["--precision", bench.precision, *bench.options]
        fields = {"Content-Type": encoding.content_type, **(headers or {})}
        probe, log = encoding.encode(bench.probe), bench.work / f"{module}.log"
        return servers.peer(command, path, fields, probe, port=port, root=bench.root, log=log)

    return start


_triton = peer("triton_ours", "/v2/models/sightline/infer", headers=FORM_OF_TRITON)


def ours(precision: str, network: str = "") -> Start:
    """Return the start of our server: one archive and one configuration a precision."""

    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        try:
            run = bench.root / (bench_runs.run(network, bench.root) if network else bench.run)
            overrides = [f"handler.precision={precision}"]
            server = servers.sightline(bench.work / f"ours-{network or precision}", run, overrides, offset=bench.offset)
        except (ArchiveError, bench_runs.TrainingFailed) as error:
            raise NotMeasured(str(error)) from error
        with server as running:
            yield running

    return start


@contextlib.contextmanager
def _noop(bench: Bench) -> Iterator[Running]:
    folder = servers.empty(bench.work / "noop")
    config = {name: value for name, value in bench.model_config.items() if name != "handler"}
    stock.build_noop(MODEL, config, folder / "model_store")
    with servers.torchserve(folder, offset=bench.offset) as running:
        yield running


def stock_server(setting: stock.Setting) -> Start:
    """Return the start of TorchServe's handler with a setting."""

    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        folder = servers.empty(bench.work / "stock")
        try:
            stock.build(MODEL, setting, bench.root / bench.run, folder / "model_store")
        except subprocess.CalledProcessError as error:
            raise NotMeasured(f"torch-model-archiver failed: {error.stderr.decode(errors='replace')[-200:]}") from error
        config = (bench.root / "config.properties").read_text()
        if not setting.workers:  # TorchServe's default: a worker for each core
            config += f"\ndefault_workers_per_model={len(os.sched_getaffinity(0))}\n"
        options: Any = {"config": config, "python": bench.peers(), "offset": bench.offset}
        with servers.torchserve(folder, environment=setting.environment, **options) as running:
            yield running

    return start


def _stock_best(bench: Bench) -> AbstractContextManager[Running]:
    return stock_server(bench.best)(bench)


def inside(precision: str) -> Callable[[Bench], list[str]]:
    """Return a function from settings to the command that measures our parts in process."""

    def command(bench: Bench) -> list[str]:
        return _loop(bench, Path(sys.executable), "benchmarks.comparison.in_process", precision)

    return command


def _openvino(bench: Bench) -> list[str]:
    return _loop(bench, bench.peers(), "benchmarks.peers.openvino_ours", bench.precision)


def _loop(bench: Bench, python: Path, module: str, precision: str) -> list[str]:
    command = [str(python), "-m", module, str(bench.run), "--precision", precision, *bench.options]
    command += ["--seconds", str(bench.seconds)]
    for folder in bench.folders:
        command += ["--bodies", str(folder)]
    return command
