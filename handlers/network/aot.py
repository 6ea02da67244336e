"""The artifact compiled ahead of time: a `.pt2` package with `spec.json` inside.

The only file that names `torch.export` and AOTInductor, both of which torch may still change. A package holds machine
code, once for each precision, for one release of torch and for processors with all capabilities of the build machine's.
AOTInductor itself does not refuse another release, and only logs that the processor is another; its code then crashes
on the first missing instruction. So a package states its requirements, and they are checked before it is loaded.
"""

import copy
import json
import logging
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers import atomic
from handlers.errors import ArtifactError
from handlers.network.engine import SIZES, Engine
from handlers.network.precision import DTYPES
from handlers.network.torchscript import SPEC_FILE
from handlers.spec import Spec

SUFFIX = ".pt2"
BUILD_FILE = "build.json"
PRECISIONS = ("fp32", "bf16")
COMPILER = "apt-get install g++, or name another C++ compiler in the variable CXX"
EXAMPLE_BATCH = 8  # what layouts of weights are chosen for
OPTIONS: Mapping[str, object] = {
    "aot_inductor.package": True,
    "freezing": True,  # weights laid out for oneDNN once, batch norms folded into convolutions
    "cpp.dynamic_threads": True,  # else as many threads as this process has now, wherever it runs
}


def is_aot_package(path: str | Path) -> bool:
    """Return whether a file is such a package, by its name."""
    return Path(path).suffix == SUFFIX


def save(model: nn.Module, spec: Spec, path: str | Path, options: Mapping[str, object] = OPTIONS) -> None:
    """Compile a network for this machine's processor, for batches of 1 to the largest of `SIZES`, in each precision.

    The model itself is left as it is. The file appears whole or not at all.

    Args:
        model: gives logits of float32 (B, C, S, S).
        spec: goes inside as spec.json.
        path: the file to write; its folder exists.
        options: of AOTInductor.

    Raises:
        ArtifactError: there is no C++ compiler, or the network cannot be exported for any batch size.
    """
    from torch._dynamo.exc import UserError
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
    from torch.export.pt2_archive._package import package_pt2

    # It warns that a CUDA compiler finds no GPU; this compiles for the CPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    path = Path(path)
    if spec.preprocess.channels == 1:  # with torch 2.15 a frozen network answers wrongly for grey images (measured)
        options = {**options, "freezing": False}
    try:
        get_cpp_compiler()
        files: dict[str, Any] = {name: _compiled(model, spec, DTYPES[name], options) for name in PRECISIONS}
    except InvalidCxxCompiler as error:
        raise ArtifactError(f"{path.name} needs a C++ compiler: {COMPILER}") from error
    except CppCompileError as error:
        raise ArtifactError(f"{path.name}: the C++ compiler failed: {str(error)[-500:]}") from error
    except UserError as error:
        raise ArtifactError(
            f"{path.name}: torch.export takes the network for one batch size only: {str(error).splitlines()[0]}"
        ) from error
    extra = {SPEC_FILE: spec.to_json(), BUILD_FILE: json.dumps(_platform())}
    with atomic.replacing(path) as part:
        package_pt2(str(part), aoti_files=files, extra_files=extra)


def _compiled(model: nn.Module, spec: Spec, dtype: torch.dtype, options: Mapping[str, object]) -> Any:
    """Return the files of the network compiled in one precision."""
    network = copy.deepcopy(model).to("cpu", dtype).eval().to(memory_format=torch.channels_last)
    size = spec.preprocess.image_size
    example = torch.zeros(EXAMPLE_BATCH, spec.preprocess.channels, size, size, dtype=dtype)
    example = example.contiguous(memory_format=torch.channels_last)
    batch = torch.export.Dim("batch", min=1, max=SIZES["cpu"][-1])
    with torch.no_grad():  # with gradients there is no freezing, and nothing says so
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        return torch._inductor.aot_compile(program.module(check_guards=False), (example,), options=dict(options))


def load(path: str | Path, device: torch.device, precision: str) -> tuple[Spec, Engine]:
    """Read a package that `save` wrote, for one precision.

    Raises:
        ArtifactError: no such file, damaged, or made by another torch or for another processor.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; export a trained model with format=pt2 first")
    if device.type != "cpu":
        raise ArtifactError(f"{path} is compiled for a CPU, not for {device}: serve model.pt there")
    if precision not in PRECISIONS:
        raise ArtifactError(f"{path} has no {precision} network, it has {', '.join(PRECISIONS)}: serve model.pt for it")
    try:
        with zipfile.ZipFile(path) as file:
            members = {member.partition("/")[2]: member for member in file.namelist()}
            spec = Spec.from_json(file.read(members[f"extra/{SPEC_FILE}"]).decode())
            _check(json.loads(file.read(members[f"extra/{BUILD_FILE}"])), path)
        return spec, Engine(_Package(path, precision), spec.preprocess.shape, device, precision)
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not an artifact or is damaged; export the model again") from error


class _Package:
    """The compiled network of one precision: what `torch._inductor.aoti_load_package` wraps.

    That function imports the compiler, which takes a worker seconds, loads every precision of a package, and calls a
    C++ compiler to name the processor.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(path), name, False, 1, -1, False)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        (logits,) = self._loader.boxed_run([batch])
        return logits


def _platform() -> dict[str, Any]:
    """Return what compiled code depends on: the release of torch, and what this processor can do."""
    able = sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    return {"torch": torch.__version__.partition("+")[0], "machine": platform.machine(), "capabilities": able}


def _check(build: dict[str, Any], path: Path) -> None:
    current = _platform()
    if build["torch"] != current["torch"]:
        raise ArtifactError(f"{path} was compiled by torch {build['torch']}, here is {current['torch']}: {_REMEDY}")
    if build["machine"] != current["machine"]:
        raise ArtifactError(f"{path} was compiled for {build['machine']}, here is {current['machine']}: {_REMEDY}")
    lacking = sorted(set(build["capabilities"]) - set(current["capabilities"]))
    if lacking:
        raise ArtifactError(
            f"{path} was compiled for a processor with {', '.join(lacking)}, which this lacks: {_REMEDY}"
        )


_REMEDY = "export it again here with format=pt2, or use model.pt"
