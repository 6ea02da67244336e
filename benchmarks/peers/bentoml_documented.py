"""BentoML as its documentation shows an image classifier: a batchable method that takes Pillow images from a form.

.venv-peers/bin/python -m benchmarks.peers.bentoml_documented RUN --port 9000
"""

import os
import sys
from pathlib import Path

import bentoml
import torch
from PIL import Image

from benchmarks.peers.documented import Parts

RUN = "SIGHTLINE_PEER_RUN"  # BentoML passes only the environment to its workers


@bentoml.service(traffic={"timeout": 120}, workers=1)
class Documented:
    """One worker, which predicts the batches of BentoML."""

    def __init__(self) -> None:
        self.parts = Parts(Path(os.environ[RUN]))

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def classify(self, image: list[Image.Image]) -> list[dict[str, float]]:
        return self.parts.predict(torch.stack([self.parts.prepare(picture) for picture in image]))


if __name__ == "__main__":
    from benchmarks.peers.options import parse

    options = parse()
    os.environ[RUN] = str(options.run)
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    command = [str(Path(sys.prefix) / "bin" / "bentoml"), "serve", "benchmarks.peers.bentoml_documented:Documented"]
    os.execv(command[0], [*command, "--host", "127.0.0.1", "--port", str(options.port)])
