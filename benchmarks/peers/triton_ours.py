"""Triton with our own preprocessing, network, workers and threads, through PyTriton: only the server differs.

.venv-peers/bin/python -m benchmarks.peers.triton_ours RUN --port 9000 --precision bf16 --workers 2 --delay 1

POST /v2/models/sightline/infer with `Inference-Header-Content-Length: 0` takes the image as the raw body.
"""

import json
import os
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.options import parse
from handlers.classifier import Classifier
from handlers.errors import RequestError
from handlers.run_folder import RunFolder

LIBRARIES = "LD_LIBRARY_PATH"


def use_own_library() -> None:
    """Start this program again if Triton's Python backend would load another libpython.

    Triton's wheel links `libpython3.x.so.1.0` and loads that of the system, which may be older than our standard
    library: it then fails with `_thread.RLock has no attribute _recursion_count`.
    """
    folder = sysconfig.get_config_var("LIBDIR") or ""
    paths = os.environ.get(LIBRARIES, "")
    if any(Path(folder).glob("libpython3.*.so.1.0")) and folder not in paths.split(os.pathsep):
        os.environ[LIBRARIES] = os.pathsep.join(filter(None, [folder, paths]))
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.peers.triton_ours", *sys.argv[1:]])


class Worker:
    """The classifier of one worker process."""

    classifier: ClassVar[Classifier]

    @classmethod
    def load(cls, options: Namespace) -> None:
        """Load and warm up the classifier of this process."""
        cls.classifier = Classifier(RunFolder(options.run).model, threads=options.threads, precision=options.precision)
        cls.classifier.warm_up(options.batch)

    @classmethod
    def answer(cls, images: list[bytes]) -> list[bytes]:
        """Return one JSON document for each encoded image."""
        answers = cls.classifier.classify(images)
        return [
            json.dumps(answer.body() if isinstance(answer, RequestError) else answer).encode() for answer in answers
        ]


def instance(options: Namespace) -> Callable[..., Any]:
    """Return a function that computes batches for Triton in a separate worker process.

    PyTriton calls all functions from threads of one process: without worker processes they would share one interpreter
    lock, unlike the workers of TorchServe.
    """
    pool = ProcessPoolExecutor(1, get_context("spawn"), Worker.load, (options,))
    pool.submit(Worker.answer, []).result()  # wait until it is loaded

    @batch  # type: ignore[untyped-decorator]  # PyTriton has no types
    def infer(image: NDArray[np.object_]) -> dict[str, NDArray[np.object_]]:
        texts = pool.submit(Worker.answer, [bytes(row[0]) for row in image]).result()
        return {"answer": np.array(texts, dtype=object)[:, None]}

    return infer  # type: ignore[no-any-return]


def main() -> None:
    """Serve until the process is ended."""
    options = parse()
    port = options.port
    config = TritonConfig(http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="sightline",
            infer_func=[instance(options) for _ in range(options.workers)],
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=options.batch,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(1000 * options.delay)),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    use_own_library()
    main()
