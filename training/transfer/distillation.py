"""The loss of a student that learns from a teacher's answers to the same augmented images.

Hinton et al. 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531); Beyer et al. 2022, "Knowledge
distillation: a good teacher is patient and consistent" (arXiv:2106.05237).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch.nn import functional

from handlers.network import torchscript
from handlers.network.engine import WARM_UP, optimized
from handlers.preprocessing import Preprocess
from handlers.run_folder import RunFolder


class Teacher:
    """The network of a run, frozen; it is loaded by the first batch, on its device and in its precision.

    No module of torch: a checkpoint of the student does not hold it.
    """

    def __init__(self, run: RunFolder, classes: Sequence[str], *, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature
        self._run, self._classes = run, classes
        self._network: Any = None
        self._dtype = torch.float32
        self._preprocess: Preprocess | None = None
        self._order: torch.Tensor | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], classes: Sequence[str]) -> Self | None:
        """Return the teacher that a configuration names, for a student with `classes`; None if it names none."""
        if config.get("teacher") is None:
            return None
        node = config["distillation"]
        run = RunFolder.of(config["teacher"])
        return cls(run, classes, weight=node["weight"], temperature=node["temperature"])

    def loss(self, loss: torch.Tensor, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return a student's loss with its part of the divergence from the teacher.

        Args:
            loss: that of the labels, a scalar.
            logits: the student's, float32 (B, K).
            images: as the student gets them but for its normalisation, float in [0, 1], (B, C, S, S).
        """
        expected = functional.log_softmax(self.logits(images) / self.temperature, dim=1)
        answers = functional.log_softmax(logits / self.temperature, dim=1)
        divergence = functional.kl_div(answers, expected, reduction="batchmean", log_target=True)
        # Its gradient falls with the square of the temperature.
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the teacher's logits (B, K), float32, in the order of the student's classes."""
        device = images.device
        bf16 = torch.is_autocast_enabled(device.type)  # of the student
        with torch.autocast(device.type, enabled=False):
            if self._preprocess is None:
                self._load(device, len(images), bf16=bf16)
            assert self._preprocess is not None
            size = self._preprocess.spec.image_size
            floats = images.float()
            if floats.shape[-1] != size:
                floats = functional.interpolate(floats, (size, size), mode="bilinear", antialias=True).clamp_(0, 1)
            inputs = self._preprocess.normalize(floats).to(self._dtype, memory_format=torch.channels_last)
            logits: torch.Tensor = self._network(inputs).float()
        return logits[:, self._order]

    def _load(self, device: torch.device, count: int, *, bf16: bool) -> None:
        artifact = torchscript.load(self._run.model, device)
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._network = optimized(artifact.module, device, "bf16" if bf16 else "fp32")
        self._order = torch.tensor([artifact.spec.classes.index(name) for name in self._classes], device=device)
        self._preprocess = Preprocess(artifact.spec.preprocess).to(device)
        # TorchScript fuses layers after some runs, which changes the last digits: a resumed run begins fused too.
        example = torch.zeros(count, *artifact.spec.preprocess.shape, dtype=self._dtype, device=device)
        for _ in range(WARM_UP):
            self._network(example.contiguous(memory_format=torch.channels_last))
