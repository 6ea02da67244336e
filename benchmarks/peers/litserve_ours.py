"""LitServe with our own preprocessing, network, workers and threads: only the server differs.

    .venv-peers/bin/python -m benchmarks.peers.litserve_ours RUN --port 9000 --precision bf16 --workers 2

POST /predict takes the image as the raw body: LitServe's forms would be slower.
"""

from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers.options import parse
from handlers.classifier import Answer, Classifier
from handlers.errors import RequestError
from handlers.run_folder import RunFolder


class OurParts(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no types here
    """Decodes, predicts and encodes whole batches with one classifier."""

    def setup(self, device: str) -> None:
        options = parse()
        self.classifier = Classifier(RunFolder(options.run).model, threads=options.threads, precision=options.precision)
        self.classifier.warm_up(options.batch)

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, images: list[bytes]) -> list[Answer]:
        return self.classifier.classify(images)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Answer) -> dict[str, Any]:
        return output.body() if isinstance(output, RequestError) else output


if __name__ == "__main__":
    options = parse()
    api = OurParts(max_batch_size=options.batch, batch_timeout=options.delay / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=120)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)
