"""A real TorchServe on free ports, once for all tests of this folder, with small models of seeded random weights.

`shapes` has three classes, fewer than its top_k of five, and takes images of up to 200,000 bytes. `digits` has ten
classes and top_k 3, and waits 100 ms to fill batches of four, so that requests sent together stand in one batch.
Nothing here is mocked.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from handlers import golden
from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.spec import PreprocessSpec, Spec
from serving import archive
from serving import server as server_module
from serving.client import Client
from serving.host import ports
from serving.host.ports import Ports
from serving.host.state import ServerState, created
from serving.lifecycle.readiness import wait_ready
from serving.store.model_store import Archive
from training.cards import cards
from training.quantization import quantize

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config.properties"
MAX_BYTES = 200_000
CLASSES = {"shapes": ("circle", "square", "triangle"), "digits": tuple(f"digit {n}" for n in range(10))}


class Tiny(torch.nn.Module):
    """Two convolutions and a linear layer: small, and sure enough of itself that answers differ between images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.second = torch.nn.Conv2d(8, 16, 3, stride=2)
        self.last = torch.nn.Linear(16, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(torch.relu(self.first(x)))
        return found

    def embedding(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(20 * self.embedding(x))
        return logits


def export(folder: Path, classes: tuple[str, ...], seed: int = 0) -> Path:
    """Write a model.pt and a golden.json into `folder`, as training.export would."""
    torch.manual_seed(seed)
    spec = Spec(
        preprocess=PreprocessSpec(image_size=32, interpolation="bicubic"),
        classes=classes,
        network="tiny",
        temperature=1.7,
        provenance={"fingerprint": "0" * 64},
    )
    folder.mkdir(parents=True, exist_ok=True)
    network = Tiny(len(classes)).eval()
    torchscript.save(network, spec, folder / "model.pt")
    calibration = torch.randn(16, *spec.preprocess.shape, generator=torch.Generator().manual_seed(0))
    torchscript.save_quantized(quantize(network, [calibration]), spec, folder / "model.pt")
    exact, rounded = (Classifier(folder / "model.pt", precision=precision) for precision in ("fp32", "int8"))
    pictures = {f"{seed}.jpg": picture(seed) for seed in (7, 8, 9, 6)}
    drawn = golden.of(exact, cards(spec.preprocess.image_size), int8=rounded, drawn=True)
    golden.write([*golden.of(exact, pictures, int8=rounded), *drawn], folder / golden.FILE)
    return folder / "model.pt"


def picture(seed: int = 0, size: tuple[int, int] = (48, 40), image_format: str = "JPEG") -> bytes:
    """Return an encoded image of smooth random colours, another one for each seed; `size` is (width, height)."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(buffer, image_format)
    return buffer.getvalue()


def free_offset(start: int) -> int:
    """Return an offset for which all five ports are free; `start` spreads the tests over the ports.

    They are below 32,768: those above may become any client's between this look and the server's start.
    """
    return ports.free_offset(Ports.of_config(CONFIG.read_text()), 1_000 + start % 19_000)


def run_cli(module: str, *arguments: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module ...` in `root` as a person would, and return what it said."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=120)


@contextlib.contextmanager
def another_server(root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Have the record of `root` name a process as its server; it must run until the block ends."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key_file = str(root / "key_file.json")
        ServerState(process.pid, created(process.pid), "", "", "", key_file, str(root / "gone")).write(root)
        yield process
        assert process.poll() is None and ServerState.read(root) is not None, "it is another's, and is left alone"
        ServerState.remove(root)
        process.communicate()


@dataclasses.dataclass(frozen=True)
class RunningServer:
    """The server of this session, and a client of it."""

    root: Path
    state: ServerState
    client: Client
    startup: float

    def token(self, api: str = "inference") -> dict[str, str]:
        """Return the header that opens one of its addresses."""
        return {"Authorization": f"Bearer {json.loads(Path(self.state.key_file).read_text())[api]['key']}"}

    def pids(self, model: str) -> list[int]:
        """Return the processes of the workers of a model."""
        return [worker.pid for worker in self.client.describe(model).workers]

    def operator(self) -> httpx.Client:
        """Return a connection to the management socket."""
        transport = httpx.HTTPTransport(uds=self.state.management.removeprefix("unix:"))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=30)

    @contextlib.contextmanager
    def also_serving(self, archives: Sequence[Archive]) -> Iterator[None]:
        """Serve further archives of this server's store until the block ends."""
        wanted = [(archive.name, archive.version) for archive in archives]
        try:
            for archive in archives:
                self.client.register(archive.path.name)
            wait_ready(self.client, wanted, alive=lambda: self.state.process() is not None, timeout=180)
            yield
        finally:
            for name, version in wanted:
                self.client.unregister(name, version)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with everything that a server needs: config.properties, two runs and their archives."""
    root = tmp_path_factory.mktemp("server")
    shutil.copy(CONFIG, root)
    runs, store = root / "runs", root / "model_store"
    for seed, (name, classes) in enumerate(CLASSES.items()):
        export(runs / name, classes, seed)
    settings = {
        "shapes": [f"handler.max_bytes={MAX_BYTES}", "handler.precision=fp32", "minWorkers=1"],
        "digits": ["batchSize=4", "maxBatchDelay=100", "handler.top_k=3", "handler.precision=fp32", "minWorkers=1"],
    }
    archive.build("shapes", "1.0", runs=runs, store=store, overrides=settings["shapes"], rehearse=False)
    archive.build("digits", "2.0", runs=runs, store=store, overrides=settings["digits"], rehearse=False)
    return root


@pytest.fixture(scope="session")
def server(root: Path) -> Iterator[RunningServer]:
    """Start the server of this session; end it, and see that it ended, after the last test."""
    started = server_module.start(root=root, config=CONFIG, offset=free_offset(2000))
    try:
        with Client(root=root) as client:
            yield RunningServer(root, started.state, client, started.seconds)
    finally:
        assert server_module.stop(root=root)
        assert started.state.process() is None


@pytest.fixture
def listener() -> Iterator[Callable[[int], None]]:
    """Return a function that takes a port, as another program would."""
    opened: list[socket.socket] = []

    def listen(port: int) -> None:
        taken = socket.create_server(("127.0.0.1", port))
        opened.append(taken)

    yield listen
    for each in opened:
        each.close()
