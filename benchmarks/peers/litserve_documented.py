"""LitServe as its guide to faster serving shows an image classifier: base64 in JSON, Pillow, torchvision, batches.

.venv-peers/bin/python -m benchmarks.peers.litserve_documented RUN --port 9000
"""

import base64
from typing import Any

import litserve
import torch

from benchmarks.peers.documented import Parts
from benchmarks.peers.options import parse

BATCH, WAIT = 16, 0.01  # images, seconds


class Documented(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no types here
    """Decodes each request separately and predicts batches."""

    def setup(self, device: str) -> None:
        self.parts = Parts(parse().run)

    def decode_request(self, request: dict[str, Any]) -> torch.Tensor:
        return self.parts.read(base64.b64decode(request["image_data"]))

    def predict(self, batch: torch.Tensor) -> list[dict[str, float]]:
        return self.parts.predict(batch)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Documented(max_batch_size=BATCH, batch_timeout=WAIT), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=parse().port, log_level="warning", generate_client_file=False)
