"""OpenVINO in process with our weights and our preprocessing: the usual runtime for a network on a CPU.

    .venv-peers/bin/python -m benchmarks.peers.openvino_ours RUN --precision bf16 --threads 2 --batch 8 --bodies FOLDER

The same two loops as `benchmarks.comparison.in_process`, with OpenVINO as the network. The last line is one JSON
document.
"""

import json
from collections.abc import Sequence
from typing import Any

import openvino
import torch

from benchmarks.comparison.in_process import batches, pipelined, rate, read, simple, single
from benchmarks.peers.options import parse
from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.run_folder import RunFolder

TYPES = {"fp32": "f32", "bf16": "bf16"}


class WithOpenVino(Classifier):
    """Our classifier, whose network is compiled by OpenVINO."""

    def compile(self, path: str, precision: str, threads: int) -> None:
        """Compile the network of an artifact; `threads` are those that it computes with."""
        size = self.spec.preprocess.image_size
        example = torch.zeros(1, self.spec.preprocess.channels, size, size)
        with torch.no_grad():
            model = openvino.convert_model(torchscript.load(path).module, example_input=example)
        settings = {
            "INFERENCE_PRECISION_HINT": TYPES[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled = openvino.Core().compile_model(model, "CPU", settings)

    def predict(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return probabilities as `Classifier.predict` does."""
        with torch.inference_mode():
            batch = torch.empty(len(images), *self.spec.preprocess.shape)
            self.preprocess.write(images, list(batch))
            logits = self.compiled(batch.numpy())[0]
            return (torch.from_numpy(logits) / self.spec.temperature).softmax(dim=1)


def main() -> None:
    """Measure every folder and print the document."""
    options = parse()
    path = str(RunFolder(options.run).model)
    threads = options.workers * options.threads
    classifier = WithOpenVino(path, threads=threads)
    classifier.compile(path, options.precision, threads)
    document: dict[str, Any] = {}
    for folder in options.bodies:
        images = read(folder)
        expected = [next(iter(answer)) for answer in Classifier(path).classify(images[:4]) if isinstance(answer, dict)]
        answered = [next(iter(answer)) for answer in classifier.classify(images[:4]) if isinstance(answer, dict)]
        loops = (
            simple(classifier, batches(images, options.batch)),
            pipelined(classifier, batches(images, options.batch)),
        )
        in_turn, ahead = (rate(loop, options.seconds) for loop in loops)
        document[folder.name] = {
            "images_per_second": max(in_turn, ahead),
            "in_turn": in_turn,
            "pipelined": ahead,
            "single_ms": single(lambda image: classifier.classify([image]), images, options.seconds / 2),
            "agree": sum(map(str.__eq__, expected, answered)) / len(expected),
        }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
