"""From encoded images to label probabilities, in four words: set up, decode, predict, encode.

Knows nothing of TorchServe: evaluation, offline prediction and the worker all ask this class, so they answer the same.

    classifier = Classifier("runs/fingers/model.pt")
    classifier.classify([open("hand.png", "rb").read()])
"""

import contextlib
import ctypes
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from handlers import artifact, exported
from handlers.decoding import Buffer, decode, is_heavy
from handlers.engine import Engine
from handlers.errors import RequestError
from handlers.limits import DEFAULT_LIMITS, Limits
from handlers.precision import choose
from handlers.preprocessing import Preprocess


class Classifier:
    """One artifact, loaded once.

    Args:
        path: the artifact, or a package compiled ahead of time (`.pt2`).
        device: where the network runs; images are decoded and resized on the CPU.
        top_k: labels in an answer; all of them where there are fewer classes.
        limits: of one encoded image.
        threads: of torch on the CPU, for the whole process, and as many that decode; None leaves torch's alone and
            decodes with one.
        precision: "fp32", which other precisions are held against, "bf16", "int8" (the file `artifact.quantized` beside
            the artifact), or "auto" for what this machine gains from.

    Raises:
        ArtifactError: a file cannot be read, or its network does not fit its spec.
        ValueError: top_k or threads below 1, or an unknown precision.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        top_k: int = 5,
        limits: Limits = DEFAULT_LIMITS,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, must be at least 1")
        if threads is not None:
            if threads < 1:
                raise ValueError(f"threads is {threads}, must be at least 1")
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.limits = limits
        self._pool = _decoders(threads) if threads and threads > 1 else None
        self._heavy = threading.Lock()
        self.engine: Engine
        chosen = choose(precision, self.device)
        if exported.is_exported(path):
            self.spec, self.engine = exported.load(path, self.device, chosen)
        else:
            loaded = artifact.load(artifact.quantized(path) if chosen == "int8" else path, self.device)
            self.spec = loaded.spec
            self.engine = Engine(loaded.module, self.spec.preprocess.shape, self.device, chosen)
        self.preprocess = Preprocess(self.spec.preprocess).to(self.device)
        self._check(path)
        self.top_k = min(top_k, len(self.spec.classes))

    def _check(self, path: str | Path) -> None:
        logits = self.engine(self.engine.inputs(1).zero_())
        if logits.shape != (1, len(self.spec.classes)):
            raise artifact.ArtifactError(
                f"{path}: the network answers {tuple(logits.shape)}, its spec has {len(self.spec.classes)} classes; "
                "export the model again"
            )

    def warm_up(self, largest: int) -> None:
        """Answer blank batches of every size up to `largest` images, so that no request waits for what is compiled.

        What loading and compiling left behind goes back to the system: with a ResNet-18 a quarter of a worker's memory.
        """
        self.engine.warm_up(largest)
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)

    def decode(self, images: Sequence[Buffer]) -> list[torch.Tensor | RequestError]:
        """Return, for each encoded image, uint8 of shape (C, S, S), or what is wrong with it."""
        # Decoders and torch let go of the interpreter's lock: threads decode side by side.
        if self._pool is None or len(images) < 2:
            return [self._decode(image) for image in images]
        return list(self._pool.map(self._decode, images))

    def _decode(self, image: Buffer) -> torch.Tensor | RequestError:
        # The largest images one after the other: each of them may take most of a worker's memory.
        if self._pool is not None and is_heavy(image):
            with self._heavy:
                return self._decoded(image)
        return self._decoded(image)

    def _decoded(self, image: Buffer) -> torch.Tensor | RequestError:
        try:
            return self.preprocess.resize(
                decode(
                    image,
                    colour=self.spec.preprocess.colour,
                    limits=self.limits,
                    smallest=self.preprocess.shortest_side,
                )
            )
        except RequestError as error:
            # Kept without its traceback: that would hold on to the frames, and the bytes, of the failed decoding.
            return error.with_traceback(None)

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the probabilities of each class, float32 of shape (B, K) on the CPU, for images that `decode` gave."""
        # Activations, not images, are what fills the memory.
        largest = self.engine.sizes[-1]
        parts = [images[start : start + largest] for start in range(0, len(images), largest)]
        if not parts:
            return torch.empty((0, len(self.spec.classes)))
        return torch.cat([self._probabilities(part) for part in parts])

    @torch.inference_mode()
    def _probabilities(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        inputs = self.engine.inputs(len(images))
        rows = inputs[: len(images)]
        if self.device.type != "cpu":
            rows.copy_(self.preprocess.normalize(torch.stack(list(images)).to(self.device)))
        else:
            self.preprocess.write(images, list(rows))
        return self.engine(inputs)[: len(images)].softmax(dim=1)

    def encode(self, probabilities: torch.Tensor) -> dict[str, float]:
        """Return the `top_k` labels of one row of probabilities (K,), best first."""
        values, rows = probabilities.topk(self.top_k, sorted=True)
        return {self.spec.classes[row]: value for row, value in zip(rows.tolist(), values.tolist(), strict=True)}

    def classify(self, images: Sequence[Buffer]) -> list[dict[str, float] | RequestError]:
        """Return, for each encoded image, its labels with probabilities, or what is wrong with it."""
        decoded = self.decode(images)
        rows = iter(self.predict([image for image in decoded if isinstance(image, torch.Tensor)]))
        return [image if isinstance(image, RequestError) else self.encode(next(rows)) for image in decoded]


def _decoders(threads: int) -> ThreadPoolExecutor:
    """Return started threads that decode, in each of which torch computes on that thread alone."""
    everyone = threading.Barrier(threads)

    def start() -> None:
        torch.set_num_threads(1)
        everyone.wait()

    pool = ThreadPoolExecutor(threads, "decode", initializer=start)
    # Each of these finds no idle thread and starts another; the last answer comes when all of them have started.
    for started in [pool.submit(int) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(threads)  # what a thread sets for itself, it also sets for those that are not started yet
    return pool
