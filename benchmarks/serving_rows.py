"""The rows of the serving benchmark: every server and every loop in process, and how each is started."""

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import servers, trained
from benchmarks.bodies import Encoding
from benchmarks.peers import environment, stock
from benchmarks.servers import NotMeasured, Running
from handlers.service import threads
from serving import archive, model_config
from serving.model_store import ArchiveError
from serving.shares import Shares

MODEL = "bench"
PRECISIONS = ("fp32", "bf16", "int8")
PEER_PORT = 9000  # moved by the offset, as all ports are
RAW, FORM, JSON = Encoding(), Encoding("form", "image"), Encoding("json", "image_data")
FORM_OF_TRITON = {"Inference-Header-Content-Length": "0"}


@dataclasses.dataclass(slots=True)
class Bench:
    """What all rows share: folders, ports, the served run, and the settings of every archive of ours."""

    root: Path
    work: Path
    run: Path
    offset: int
    probe: bytes  # a small image
    settings: tuple[str, ...] = ()  # of archives, as `make archive` takes them
    precision: str = "bf16"  # of the peers that run our parts
    best: stock.Setting = stock.DEFAULTS  # settings of the stock handler
    seconds: float = 2.0  # of a loop in process
    folders: tuple[Path, ...] = ()  # of the bodies

    @property
    def model_config(self) -> dict[str, Any]:
        """Return model-config.yaml of our archives, but for the precision."""
        return model_config.configure(self.settings)

    @property
    def options(self) -> list[str]:
        """Return what a peer is told of workers, threads and batches: the same as ours has."""
        config, shares = self.model_config, Shares.of_this_machine(1)
        workers = config.get("minWorkers")
        told = {"workers": workers or shares.workers, "threads": threads(workers) if workers else shares.threads}
        told |= {"batch": config["batchSize"], "delay": config["maxBatchDelay"]}
        return [word for name, value in told.items() for word in (f"--{name}", str(value))]

    @property
    def config(self) -> str:
        """Return the project's config.properties."""
        return (self.root / "config.properties").read_text()

    def peers(self) -> Path:
        """Return the interpreter of the peers, as made by `benchmarks.peers.environment`."""
        python = environment.python(self.root)
        if not environment.is_current(self.root):
            raise NotMeasured("no .venv-peers: python -m benchmarks.peers.environment")
        return python


Start = Callable[[Bench], AbstractContextManager[Running]]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    A served row has `start`, a row in process a `command`. `shares` says that it has our weights and preprocessing, so
    that its labels must be ours; `full` that all bodies and connections are measured, else the small body alone.
    """

    name: str
    title: str
    precision: str
    start: Start | None = None
    command: Callable[[Bench], list[str]] | None = None
    encoding: Encoding = RAW
    ours: bool = False
    shares: bool = False
    checked: bool = True  # whether its labels are held against ours
    full: bool = True
    chart: bool = True
    open: bool = False

    @property
    def kind(self) -> str:
        """Return "served" or "in process"."""
        return "served" if self.start else "in process"


def rows(precisions: tuple[str, ...] = PRECISIONS) -> list[Row]:
    """Return all rows, the strictest peer first."""
    found = [
        Row("litserve-ours", "LitServe, our parts", "bf16", peer("litserve_ours", "/predict"), shares=True, open=True),
        Row("triton-ours", "Triton, our parts", "bf16", _triton, shares=True),
        Row("openvino", "OpenVINO in process, our weights", "bf16", command=_openvino),
        Row("stock-best", "TorchServe image_classifier, best settings", "fp32", _stock_best),
        Row(
            "stock-defaults", "TorchServe image_classifier, defaults", "fp32", _stock_defaults, full=False, chart=False
        ),
        Row(
            *("litserve-documented", "LitServe as documented", "fp32"),
            peer("litserve_documented", "/predict", JSON),
            encoding=JSON,
        ),
        Row(
            *("bentoml-documented", "BentoML as documented", "fp32"),
            peer("bentoml_documented", "/classify", FORM),
            encoding=FORM,
        ),
    ]
    for precision in precisions:
        start = ours(precision)
        is_open = precision != "fp32"
        found.append(
            Row(f"ours-{precision}", f"Sightline, {precision}", precision, start, ours=True, shares=True, open=is_open)
        )
    found.append(Row("noop", "TorchServe, a handler that does nothing", "", _noop, checked=False, chart=False))
    found += [
        Row(f"in-process-{precision}", f"our parts in process, {precision}", precision, command=inside(precision))
        for precision in precisions
    ]
    for network in ("resnet50", "vgg16", "vit"):
        title = {"resnet50": "ResNet-50", "vgg16": "VGG-16", "vit": "ViT"}[network]
        start = ours("bf16", network)
        found.append(
            Row(
                f"ours-{network}",
                f"Sightline, {title}, bf16",
                "bf16",
                start,
                ours=True,
                checked=False,
                full=False,
                chart=False,
            )
        )
    return found


def peer(module: str, path: str, encoding: Encoding = RAW, headers: dict[str, str] | None = None) -> Start:
    """Return how a peer of `benchmarks.peers` is started."""

    def start(bench: Bench) -> AbstractContextManager[Running]:
        port = PEER_PORT + bench.offset
        command = [str(bench.peers()), "-m", f"benchmarks.peers.{module}", str(bench.run), "--port", str(port)]
        command += ["--precision", bench.precision, *bench.options]
        sent = {"Content-Type": encoding.content_type, **(headers or {})}
        probe, log = encoding.encode(bench.probe), bench.work / f"{module}.log"
        return servers.peer(command, path, sent, probe, port=port, root=bench.root, log=log)

    return start


_triton = peer("triton_ours", "/v2/models/sightline/infer", headers=FORM_OF_TRITON)


def ours(precision: str, network: str = "") -> Start:
    """Return how our own server is started: one archive and one configuration a precision."""

    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        folder = servers.empty(bench.work / f"ours-{network or precision}")
        try:
            run = bench.root / (trained.run(network, bench.root) if network else bench.run)
            overrides = (*bench.settings, f"handler.precision={precision}")
            archive.build(MODEL, "1.0", run=run, store=folder / "model_store", overrides=overrides, rehearse=False)
        except (ArchiveError, trained.TrainingFailed) as error:
            raise NotMeasured(str(error)) from error
        with torchserve(bench, folder, bench.config) as running:
            yield running

    return start


def torchserve(
    bench: Bench, folder: Path, config: str, *, peers: bool = False, environment: dict[str, str] | None = None
) -> AbstractContextManager[Running]:
    """Run TorchServe with the one archive that stands in `folder`."""
    python = bench.peers() if peers else servers.own_python()
    headers = {"Content-Type": RAW.content_type}
    return servers.torchserve(
        *(MODEL, folder, config, headers),
        python=python, root=bench.root, offset=bench.offset, environment=environment,
    )  # fmt: skip


@contextlib.contextmanager
def _noop(bench: Bench) -> Iterator[Running]:
    folder = servers.empty(bench.work / "noop")
    config = {name: value for name, value in bench.model_config.items() if name != "handler"}
    stock.build_noop(MODEL, config, folder / "model_store")
    with torchserve(bench, folder, bench.config) as running:
        yield running


def stock_server(setting: stock.Setting) -> Start:
    """Return how TorchServe's own handler is started with a setting."""

    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        folder = servers.empty(bench.work / "stock")
        try:
            stock.build(MODEL, setting, bench.root / bench.run, folder / "model_store")
        except subprocess.CalledProcessError as error:
            raise NotMeasured(f"torch-model-archiver failed: {error.stderr.decode(errors='replace')[-200:]}") from error
        config = bench.config
        if not setting.workers:  # as it comes: a worker for each core
            config += f"\ndefault_workers_per_model={len(os.sched_getaffinity(0))}\n"
        with torchserve(bench, folder, config, peers=True, environment=setting.environment) as running:
            yield running

    return start


def _stock_best(bench: Bench) -> AbstractContextManager[Running]:
    return stock_server(bench.best)(bench)


_stock_defaults = stock_server(stock.DEFAULTS)


def inside(precision: str) -> Callable[[Bench], list[str]]:
    """Return the command that measures our parts in process."""

    def command(bench: Bench) -> list[str]:
        return _loop(bench, servers.own_python(), "benchmarks.in_process", precision)

    return command


def _openvino(bench: Bench) -> list[str]:
    return _loop(bench, bench.peers(), "benchmarks.peers.openvino_ours", bench.precision)


def _loop(bench: Bench, python: Path, module: str, precision: str) -> list[str]:
    command = [str(python), "-m", module, str(bench.run), "--precision", precision, *bench.options]
    command += ["--seconds", str(bench.seconds)]
    for folder in bench.folders:
        command += ["--bodies", str(folder)]
    return command
