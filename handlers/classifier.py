"""From encoded images to label probabilities, in four words: set up, decode, predict, encode.

Knows nothing of TorchServe: evaluation, offline prediction and the worker all ask this class, so they answer the same.

    classifier = Classifier("runs/fingers/model.pt")
    classifier.classify([open("hand.png", "rb").read()])
"""

import contextlib
import ctypes
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from handlers.device import out_of_memory_errors
from handlers.errors import ArtifactError, NoAnswer, RequestError
from handlers.images import nvjpeg
from handlers.images.decoder import Decoded, Decoder
from handlers.images.decoding import Buffer
from handlers.images.gpu_decoder import DeviceDecoder
from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.images.prefetch import Prefetcher
from handlers.network import aot, torchscript
from handlers.network.engine import Engine, optimized
from handlers.network.familiarity import Familiarity
from handlers.network.precision import choose_precision
from handlers.observation.measurements import Batch, Projection
from handlers.observation.reference import Reference
from handlers.observation.stages import Stages
from handlers.preprocessing import Preprocess
from handlers.requests.labels import Labels, Measured
from handlers.spec import FAMILIARITY, REFERENCE, Spec

Answer = Labels | RequestError
_Measure = Callable[[], Measured] | None


def _set_threads(threads: int) -> None:
    if threads < 1:
        raise ValueError(f"threads is {threads}, must be at least 1")
    torch.set_num_threads(threads)


def _load(
    path: str | Path, device: torch.device, precision: str
) -> tuple[Spec, Engine, Familiarity | None, Reference | None]:
    """Return the spec of an artifact, its network on this device in this precision, and bank and reference beside it.

    A network with a bank answers embeddings after its logits. The int8 network has no embedding, and neither has a
    package compiled ahead of time.
    """
    if aot.is_aot_package(path):
        return *aot.load(path, device, precision), None, None
    artifact = torchscript.load(torchscript.quantized(path) if precision == "int8" else path, device)
    module, bank, reference = artifact.module, None, None
    if precision != "int8" and (file := Path(path).with_name(FAMILIARITY)).is_file():
        module, bank = torchscript.with_embedding(module), Familiarity.read(file)
        reference = Reference.read(drift) if (drift := file.with_name(REFERENCE)).is_file() else None
    module = optimized(module, device, precision)
    return artifact.spec, Engine(module, artifact.spec.preprocess.shape, device, precision), bank, reference


class Classifier:
    """One artifact, loaded once.

    Args:
        path: the artifact, or a package compiled ahead of time (`.pt2`).
        device: where the network runs; on a GPU JPEG files are decoded and resized there too, except in fp32.
        top_k: labels in an answer; all of them if the network has fewer classes.
        limits: of one encoded image.
        threads: of torch on the CPU, for the whole process, and as many that decode; None keeps torch's setting and
            decodes with one.
        precision: "fp32", the reference for the other precisions, "bf16", "fp16" on a GPU, "int8" on a CPU (the file
            `artifact.quantized` beside the artifact), or "auto" for what this machine gains from.

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
            _set_threads(threads)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device.index or 0)
        resolved = choose_precision(precision, self.device)
        self.spec, self.engine, self.familiarity, self.reference = _load(path, self.device, resolved)
        self.preprocess = Preprocess(self.spec.preprocess).to(self.device)
        self.decoder: Decoder | DeviceDecoder = Decoder(Preprocess(self.spec.preprocess), limits, threads)
        # In float32, answers are to be as they were evaluated: nvJPEG and libjpeg differ in their last bits.
        if self.device.type == "cuda" and resolved != "fp32":
            self.decoder = DeviceDecoder(self.decoder, self.preprocess, torch.float16)
        # Pass the decoder's method, not ours: a reference cycle would keep GPU memory until the next collection.
        on_device = isinstance(self.decoder, DeviceDecoder)
        self.ahead = Prefetcher(self.decoder.decode, self.device) if on_device else None
        self._check(path)
        self._projection = Projection(self.reference) if self.reference else None
        self.top_k = min(top_k, len(self.spec.classes))
        self.observes = False  # whether answers have measurements
        self.stages = Stages()

    def _check(self, path: str | Path) -> None:
        shape, classes = tuple(self.engine(self.engine.buffer(1).zero_()).shape), len(self.spec.classes)
        for name, beside in ((FAMILIARITY, self.familiarity), (REFERENCE, self.reference)):
            if beside is not None and shape[1] != classes + beside.width:
                raise ArtifactError(f"{path} and {name} are of two exports; export the model again")
        if self.familiarity is None and shape != (1, classes):
            raise ArtifactError(
                f"{path}: the network answers {shape}, its spec has {classes} classes; export the model again"
            )

    def warm_up(self, largest: int) -> None:
        """Answer blank batches of every size up to `largest` images, so that no request waits for compilation.

        Return the memory that loading and compiling freed to the system: with a ResNet-18 a quarter of a worker's.
        """
        self.engine.warm_up(largest)
        if self.ahead is not None:  # its thread and its stream have libraries to load too
            self.classify([nvjpeg.probe()] * (self.ahead.part + 1))
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)

    def decode(self, images: Sequence[Buffer]) -> list[Decoded]:
        """Return, for each encoded image, uint8 of shape (C, S, S), or its error."""
        return self.decoder.decode(images)

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the probabilities of each class, float32 of shape (B, K) on the CPU, for images that `decode` gave."""
        return self._probabilities(self.outputs(images))

    def outputs(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the logits (B, K) of images, or with a bank (B, K + D): their embeddings after them."""
        # Activations, not images, are what fills the memory.
        largest = self.engine.sizes[-1]
        parts = [images[start : start + largest] for start in range(0, len(images), largest)]
        if not parts:
            return torch.empty((0, len(self.spec.classes) + (self.familiarity.width if self.familiarity else 0)))
        return torch.cat([self._run_or_split(part) for part in parts])

    def _run_or_split(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the outputs for a batch, in halves if the device is out of memory at present.

        Raises:
            OutOfMemoryError: it has none for a single image.
        """
        try:
            with out_of_memory_errors():
                return self._run(images)
        except torch.OutOfMemoryError:
            if len(images) == 1 and self.ahead is None:
                raise
        if self.ahead is not None:
            self.ahead.wait_idle()
        torch.cuda.empty_cache()  # the failed attempt's tensors are free by now
        if len(images) == 1:
            return self._run(images)
        middle = len(images) // 2
        return torch.cat([self._run_or_split(images[:middle]), self._run_or_split(images[middle:])])

    @torch.inference_mode()
    def _run(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.engine(self._inputs(images))[: len(images)]

    @torch.inference_mode()
    def _probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        logits = outputs if self.familiarity is None else outputs[:, : len(self.spec.classes)]
        return (logits / self.spec.temperature).softmax(dim=1)

    @torch.inference_mode()
    def _familiarities(self, outputs: torch.Tensor) -> Sequence[float | None]:
        if self.familiarity is None:
            return [None] * len(outputs)
        return self.familiarity.values(outputs[:, len(self.spec.classes) :])

    def _inputs(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the network's input for images, filled up to a size that the engine has."""
        inputs = self.engine.buffer(len(images))
        rows = inputs[: len(images)]
        if self.device.type != "cpu":
            if len({image.device for image in images}) > 1:  # for some there was no room yet
                images = [image.to(self.device) for image in images]
            rows.copy_(self.preprocess.normalize(torch.stack(list(images)).to(self.device), rows.dtype))
        else:
            self.preprocess.write(images, list(rows))
        return inputs

    @torch.inference_mode()
    def levels(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what reaches the network of images that `decode` gave, its normalisation undone.

        Returns:
            float32 of shape (B, C, S, S) on the CPU, in levels of 255.
        """
        spec, largest = self.spec.preprocess, self.engine.sizes[-1]
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
        parts = [images[start : start + largest] for start in range(0, len(images), largest)]
        inputs = [self._inputs(part)[: len(part)].to("cpu", torch.float32) for part in parts]
        return 255 * (torch.cat(inputs) * std + mean)

    def encode(self, probabilities: torch.Tensor) -> list[dict[str, float]]:
        """Return the `top_k` labels of each row of probabilities (B, K), best first."""
        best = probabilities.topk(self.top_k, sorted=True)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{self.spec.classes[place]: value for place, value in zip(*row, strict=True)} for row in rows]

    def classify(self, images: Sequence[Buffer], *, seconds: float = math.inf) -> list[Answer]:
        """Return, for each encoded image, its labels with probabilities, or its error.

        Images whose turn comes after decoding has taken `seconds` of processor time are Busy.
        """
        self.stages.end("read")
        self.decoder.allow(seconds)
        if self.ahead is None or len(images) <= self.ahead.part:
            return self._answers(self.decode(images))
        return [answer for answers in self.classify_all(self.ahead.parts(images)) for answer in answers]

    def classify_all(self, batches: Iterable[Sequence[Buffer]]) -> Iterator[list[Answer]]:
        """Yield answers per batch; on a GPU the next batch is decoded meanwhile."""
        for decoded in self.ahead(batches) if self.ahead else map(self.decode, batches):
            yield self._answers(decoded)

    def _answers(self, decoded: Sequence[Decoded]) -> list[Answer]:
        images = [image for image in decoded if isinstance(image, torch.Tensor)]
        self.stages.end("decode")
        outputs = self.outputs(images)
        self.stages.end("network")
        probabilities = self._probabilities(outputs)
        finite = probabilities.isfinite().all(dim=1).tolist()
        measures = self._measures(images, outputs)
        answers = zip(self.encode(probabilities), self._familiarities(outputs), finite, measures, strict=True)
        answered = [image if isinstance(image, RequestError) else self._answer(*next(answers)) for image in decoded]
        self.stages.end("encode")
        return answered

    def _measures(self, images: Sequence[torch.Tensor], outputs: torch.Tensor) -> Sequence[_Measure]:
        """Return functions that measure the images on demand, each None if this classifier does not observe."""
        if not self.observes:
            return [None] * len(images)
        batch = Batch(images, outputs, self._projection)
        return [functools.partial(batch.measure, place) for place in range(len(images))]

    def _answer(self, labels: dict[str, float], familiarity: float | None, finite: bool, measure: _Measure) -> Answer:
        if finite:
            return Labels(labels, familiarity, measure)
        return NoAnswer(f"the network overflows on this image in {self.engine.precision}: serve it in fp32")
