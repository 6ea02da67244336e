"""A server in a separate folder, with versions of one small network that benchmarks of operations swap and kill.

The network that `make up` trains, a narrow ResNet-18-D, at 64 x 64, with seeded random weights: another seed for each
version, so that an answer shows which version gave it.
"""

import contextlib
import dataclasses
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from omegaconf import OmegaConf

from benchmarks.harness import resnet, servers
from handlers import golden
from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.observation.segments import VARIABLE
from handlers.run_folder import RUNS, RunFolder
from serving import archive, server
from serving.host import ports, state
from serving.host.state import ServerState
from serving.lifecycle import launch
from serving.store import package, provenance
from synthetic import places365
from training.networks import Network, build

MODEL, SIDE, IMAGES = "small", 64, 8
ROOT = package.HANDLERS.parent
TOLERANCE = 1e-3  # of a probability; two versions are further apart


def network(classes: int, seed: int) -> Network:
    """Return the network."""
    config = OmegaConf.load(ROOT / "training" / "configs" / "network" / "resnet18d_half.yaml")
    settings: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    settings["options"]["zero_init_last"] = False  # as after training: blocks that change their input
    torch.manual_seed(seed)
    return build(settings, classes, 3, SIDE).eval()


def images(count: int = IMAGES) -> list[bytes]:
    """Return drawn JPEG files of 200 x 200."""
    return [places365.image(0, number, 1, 0, 200) for number in range(count)]


def prepare(
    root: Path,
    versions: Sequence[str] = ("1.0", "2.0"),
    overrides: Sequence[str] = (),
    *,
    names: Sequence[str] = (MODEL,),
) -> None:
    """Empty `root`, and write config.properties and the archives of `versions` of each name into it."""
    servers.empty(root)
    # A load generator without the client reads its token only once.
    (root / launch.CONFIG).write_text(f"{(ROOT / launch.CONFIG).read_text()}\ntoken_expiration_min=525600\n")
    spec = resnet.spec(side=SIDE)
    for name, (seed, version) in itertools.product(names, enumerate(versions)):
        run = RunFolder(root / RUNS / f"{name}-{version}")
        run.path.mkdir(parents=True)
        torchscript.save(network(len(spec.classes), seed), spec, run.model)
        examples = {f"{number}.jpg": image for number, image in enumerate(images(4))}
        golden.write(golden.of(Classifier(run.model), examples), run.golden)
        settings = ["handler.precision=fp32", *overrides]
        archive.build(name, version, run=run.path, store=root / "model_store", overrides=settings, rehearse=False)


def edit(path: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """Change the members of an archive, by their names, in place."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def spoil(path: Path, code: str, member: str = package.HANDLER_FILE) -> None:
    """Append code to a module of an archive, by default to its handler, in place."""
    edit(path, lambda members: members.update({member: members[member] + code.encode()}))


def rebuild(path: Path, code: str) -> None:
    """Append code to the handler of an archive, in place, and have its sidecar describe it as it is then."""
    spoil(path, code)
    sidecar = path.with_suffix(".json")
    document = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**document, "sha256": provenance.sha256(path)}))


def raises_on(folder: Path) -> str:
    """Return code of a handler that cannot load on the server of a folder."""
    return f"""
import os
_initialize = ImageHandler.initialize
def _elsewhere(self, context):
    if os.environ[{VARIABLE!r}].startswith({str(folder)!r}):
        raise RuntimeError("not on this machine")
    _initialize(self, context)
ImageHandler.initialize = _elsewhere
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """The expected answers of each version to each image."""

    rows: Mapping[str, Sequence[Mapping[str, float]]]

    @classmethod
    def of(cls, root: Path, versions: Sequence[str], images: Sequence[bytes]) -> "Expected":
        """Return the answers of the artifacts of `root` in process."""
        rows = {}
        for version in versions:
            answers = Classifier(RunFolder(root / RUNS / f"{MODEL}-{version}").model, top_k=5).classify(images)
            rows[version] = [answer for answer in answers if isinstance(answer, dict)]
        return cls(rows)

    def version_of(self, number: int, body: bytes) -> str | None:
        """Return the version that answers image `number` like this, or None."""
        answer = json.loads(body)
        for version, rows in self.rows.items():
            row = rows[number]
            if answer.keys() == row.keys() and all(abs(answer[key] - row[key]) < TOLERANCE for key in row):
                return version
        return None


@contextlib.contextmanager
def serving(root: Path, models: Sequence[str]) -> Iterator[ServerState]:
    """Run the server of `root` with these models until the block ends."""
    try:
        yield server.start(models, root=root, offset=ports.offset_of_environment()).state
    finally:
        server.stop(root=root)


def kill(root: Path) -> None:
    """Kill the server of `root` and all its workers, if it runs."""
    running = state.running(root)
    front_end = running.process() if running is not None else None
    if front_end is not None:
        tree = [front_end, *front_end.children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=5)


def address(running: ServerState) -> tuple[str, dict[str, str]]:
    """Return the address of the predictions, and the headers of a request with one JPEG image."""
    key = json.loads(Path(running.key_file).read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    return f"{running.inference}/predictions/{MODEL}", headers
