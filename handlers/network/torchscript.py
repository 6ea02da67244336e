"""The artifact: TorchScript weights with `spec.json` inside. The only file that names `torch.jit`."""

import contextlib
import copy
import dataclasses
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers import atomic
from handlers.device import out_of_memory_errors
from handlers.errors import ArtifactError
from handlers.network.precision import multiplies_bytes
from handlers.spec import Spec

SPEC_FILE, QUANTIZED = "spec.json", ".int8.pt"
ENGINE_FILE, OLDER_ENGINE = "engine", "x86"  # of an int8 network: what packs its weights; before it was recorded
METHODS = ("forward", "features", "embedding")
ATTENTION = ("aten::scaled_dot_product_attention", "aten::matmul", "aten::bmm")
# The arguments of aten::_convolution (native_functions.yaml).
CONVOLUTION = (
    "input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups", "benchmark",
    "deterministic", "cudnn_enabled", "allow_tf32",
)  # fmt: skip
TRACED_BATCH, CHECKED_BATCHES, TOLERANCE = 2, (1, 3), 1e-4


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """Loaded weights, ready for inference, and the spec of their images.

    `module` takes float32 of shape (B, C, S, S), normalised. Calling it gives logits (B, K), `module.features` a map
    (B, F, h, w), `module.embedding` a vector (B, D).
    """

    module: nn.Module
    spec: Spec


def save(model: nn.Module, spec: Spec, path: str | Path) -> None:
    """Trace a network for any batch size, in float32 and evaluation mode, and write it with its spec.

    The model itself is left as it is. The file appears whole or not at all.

    Args:
        model: offers `forward`, `features` and `embedding` (see `Artifact`).
        spec: goes inside as spec.json.
        path: the file to write; its folder exists.

    Raises:
        ArtifactError: a method is missing, or its trace fits one batch size only.
    """
    path = Path(path)
    missing = [name for name in METHODS if not callable(getattr(model, name, None))]
    if missing:
        raise ArtifactError(f"{path.name}: the network has no method {missing[0]!r}; add it to the network")
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    with torch.no_grad(), quiet():
        torch.jit.enable_onednn_fusion(False)  # of a module that was made before: a trace is checked as it is
        inputs = dict.fromkeys(METHODS, _example(spec, TRACED_BATCH))
        traced = torch.jit.trace_module(network, inputs)  # type: ignore[no-untyped-call]
        _check_batches(network, traced, spec, path, METHODS)
        _write(traced, spec, path)


def traced(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Return the trace of a network in evaluation mode, on the CPU, for images of a shape (C, S, S)."""
    with torch.no_grad(), quiet():
        torch.jit.enable_onednn_fusion(False)  # of a module that was made before
        trace: nn.Module = torch.jit.trace(network, torch.zeros(TRACED_BATCH, *shape))  # type: ignore[no-untyped-call]
    return trace


def save_quantized(network: nn.Module, spec: Spec, path: str | Path) -> None:
    """Trace the int8 form of a network, which answers logits only, and write it to `quantized(path)` with its spec.

    torch's engine for int8 is still the one that packed its weights: it goes inside too, for `load`.

    Raises:
        ArtifactError: its trace fits one batch size only.
    """
    example = _example(spec, TRACED_BATCH).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), quiet():
        torch.jit.enable_onednn_fusion(False)
        traced = torch.jit.trace(network, example)  # type: ignore[no-untyped-call]
        _check_batches(network, traced, spec, quantized(path), ("forward",))
        _write(traced, spec, quantized(path), {ENGINE_FILE: torch.backends.quantized.engine.encode()})


def _write(traced: nn.Module, spec: Spec, path: Path, beside: Mapping[str, bytes] | None = None) -> None:
    content = io.BytesIO()  # on a full disk torch would end the process
    torch.jit.save(traced, content, _extra_files={SPEC_FILE: spec.to_json().encode(), **(beside or {})})
    with atomic.replacing(path) as part:
        part.write_bytes(content.getbuffer())


def load(path: str | Path, device: str | torch.device = "cpu") -> Artifact:
    """Read an artifact that `save` wrote.

    Raises:
        ArtifactError: no such file, not an artifact, one of a newer Sightline, or int8 that this processor gets wrong.
        OutOfMemoryError: the device has no room for its weights.
    """
    path = Path(path)
    if not path.is_file():
        remedy = "choose another handler.precision, or export" if path.name.endswith(QUANTIZED) else "export"
        raise ArtifactError(f"{path} does not exist; {remedy} a trained model first")
    files = {SPEC_FILE: ""}
    try:
        with quiet():
            if path.name.endswith(QUANTIZED):
                # Once a process torch says that int8 tensors are deprecated. Here it says so to Python, which filters;
                # while it reads the file, C++ would print it.
                torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
                use_int8_engine(_int8_engine(path))
            with out_of_memory_errors():
                module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=torch.device(device), _extra_files=files
                )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not an artifact or is damaged; export the model again") from error
    text: str | bytes = files[SPEC_FILE]  # torch answers bytes, and empty bytes for a missing file
    if not text:
        raise ArtifactError(f"{path} has no {SPEC_FILE} inside; export the model with Sightline")
    try:
        spec = Spec.from_json(text if isinstance(text, str) else text.decode())
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return Artifact(module.eval(), spec)


def _int8_engine(path: Path) -> str:
    """Return the engine that packs the weights of an int8 network.

    Raises:
        ArtifactError: its integers are too large for this processor.
        BadZipFile: the file is no artifact.
    """
    with zipfile.ZipFile(path) as file:
        inside = [name for name in file.namelist() if name.endswith(f"/extra/{ENGINE_FILE}")]
        engine = file.read(inside[0]).decode() if inside else OLDER_ENGINE
    if engine == "onednn" and not multiplies_bytes():
        raise ArtifactError(
            f"{path}: its activations have 8 bits, for processors with VNNI or AMX, and this one has neither. "
            "Set handler.precision=auto, or export the run again on this machine (python -m training.export name=<run>)"
        )
    return engine


def use_int8_engine(engine: str) -> None:
    """Choose what packs and runs the int8 layers that are made or loaded from now on.

    Raises:
        ArtifactError: this build of torch lacks it.
    """
    if engine not in torch.backends.quantized.supported_engines:
        raise ArtifactError(f"this build of torch has no int8 layers of {engine}: set handler.precision=auto")
    torch.backends.quantized.engine = engine


def quantized(path: str | Path) -> Path:
    """Return where the int8 network of an artifact lies, if it has one: model.int8.pt beside model.pt."""
    return Path(path).with_suffix(QUANTIZED)


def fused(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a loaded module for inference only: batch norms folded into convolutions, and on a CPU later layers fused.

    Only calling it is left. oneDNN's fusion is a switch of the whole process, which acts when a module first runs: the
    module that is made last decides. It refuses tensors of a GPU, and fails on, or changes, what attention does.
    """
    module = frozen(module)
    graph = str(module.inlined_graph)
    attends = any(name in graph for name in ATTENTION)
    with quiet():
        torch.jit.enable_onednn_fusion(device.type == "cpu" and not attends)
    return module


class _WithEmbedding(nn.Module):
    """Logits and embedding of a network in one pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embedding = self.network.embedding(x)  # type: ignore[operator]
        return torch.cat((self.network.head(embedding), embedding), dim=1)  # type: ignore[operator]


def with_embedding(module: nn.Module) -> nn.Module:
    """Return a loaded module that answers logits and embedding beside each other: (B, K + D).

    Raises:
        ArtifactError: the module has no `head` to take the embedding.
    """
    try:
        with quiet():
            scripted: nn.Module = torch.jit.script(_WithEmbedding(module))
            return scripted.eval()
    except RuntimeError as error:
        raise ArtifactError("the network has no head that takes its embedding") from error


class _PlaceScores(nn.Module):
    """What each place of the feature map adds to each logit of a network with a linear head, (B, h, w, K)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.network.features(x).permute(0, 2, 3, 1)  # type: ignore[operator]
        bias: torch.Tensor = self.network.head(torch.zeros_like(features[:, :1, :1]))  # type: ignore[operator]
        scores: torch.Tensor = self.network.head(features)  # type: ignore[operator]
        return scores - bias


def place_scores(artifact: Artifact) -> nn.Module:
    """Return a module whose output, (B, h, w, K), has the logits less the head's bias as its mean over the places.

    It takes the artifact's module over. Run it by `interpreted`.

    Raises:
        ArtifactError: the network has no linear head on the mean of its features.
    """
    network, example = artifact.module, _example(artifact.spec, TRACED_BATCH)
    try:
        with quiet(), torch.inference_mode():
            scripted = torch.jit.script(_PlaceScores(network)).eval()
            scores = interpreted(scripted, example).mean(dim=(1, 2))
            logits = interpreted(network, example)
            bias = network.head(network.embedding(example[:1]) * 0)  # type: ignore[operator]
            linear = torch.allclose(scores + bias, logits, rtol=TOLERANCE, atol=TOLERANCE * float(logits.abs().max()))
            module: nn.Module = torch.jit.freeze(scripted)
    except (RuntimeError, AttributeError) as error:
        raise ArtifactError("the network has no head that takes its features") from error
    if not linear:
        raise ArtifactError("the network's logits are not linear in the mean of its features")
    return module


def interpreted(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return the output of a module that is not compiled for its first inputs, which takes longer than some runs."""
    with torch.jit.optimized_execution(False), quiet():  # type: ignore[attr-defined]
        output: torch.Tensor = module(inputs)
        return output


def tune_convolutions(module: nn.Module, *, exact: bool) -> None:
    """Have a frozen module that has not run yet search cuDNN's algorithms, and disable TF32 if `exact`.

    Tracing made constants of both switches: `torch.backends.cudnn` does not reach them any more. TF32 keeps ten bits of
    a factor. The module runs on a GPU.
    """
    graph: Any = module.graph
    for node in graph.findAllNodes("aten::_convolution", recurse=True):
        for name, value in (("benchmark", True), ("allow_tf32", not exact)):
            with graph.insert_point_guard(node):
                node.replaceInput(CONVOLUTION.index(name), graph.insertConstant(value))


def frozen(module: nn.Module) -> nn.Module:
    """Return a loaded module with its weights as constants; only calling it is left. Its layers are not fused."""
    with quiet():
        torch.jit.enable_onednn_fusion(False)
        constant: nn.Module = torch.jit.freeze(module)
        return constant


def _example(spec: Spec, batch: int) -> torch.Tensor:
    size = spec.preprocess.image_size
    return torch.randn(batch, spec.preprocess.channels, size, size, generator=torch.Generator().manual_seed(0))


def _check_batches(network: nn.Module, traced: nn.Module, spec: Spec, path: Path, methods: Sequence[str]) -> None:
    """Run the trace at other batch sizes: a size that tracing took for a constant shows only there."""
    for batch in CHECKED_BATCHES:
        example = _example(spec, batch)
        for name in methods:
            expected = getattr(network, name)(example)
            try:
                same = torch.allclose(getattr(traced, name)(example), expected, rtol=TOLERANCE, atol=TOLERANCE)
            except RuntimeError:
                same = False
            if not same:
                raise ArtifactError(
                    f"{path.name}: {name!r} traced with {TRACED_BATCH} images answers otherwise for {batch}; "
                    "take sizes from the input's shape, and draw nothing at random in evaluation"
                )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop torch's notices of deprecation, and of constants in a trace, which `_check_batches` looks at."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor, .* are deprecated")
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield
