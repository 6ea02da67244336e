"""The processes that train one network, as torchrun or Ray starts them: each has a part of every batch."""

import contextlib
import dataclasses
import datetime as dt
import os
from collections.abc import Iterator
from typing import Self

import numpy as np

from training.data.splits import Rows

# Some counts stay on the CPU beside a network on a GPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
PATIENCE = dt.timedelta(hours=12)  # for a step that one process does while the others wait


@dataclasses.dataclass(frozen=True, slots=True)
class Ranks:
    """The place of this process: its `rank` among `count`, and `local` among the `beside` of its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1

    @classmethod
    def of_environment(cls) -> Self:
        """Return the place that torchrun's variables give, or that of the only process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if any(name not in os.environ for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Return whether this process writes the files of the run."""
        return self.rank == 0

    def connect(self, device: str) -> None:
        """Connect the processes, which compute on `device`, cpu or cuda, unless Ray has connected them."""
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group(BACKENDS[device], timeout=PATIENCE)
        if device == "cuda":
            import torch

            torch.cuda.set_device(self.local)  # else all would keep their images on the first GPU

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Let the first process end the block before the others begin it: they read its files."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier()

    def share(self, rows: Rows) -> Rows:
        """Return the rows of one batch that are this process's."""
        return rows[self.rank :: self.count]

    def share_of_all(self, rows: Rows, batch_size: int) -> Rows:
        """Return the same of all batches of `batch_size` rows, joined."""
        mine: Rows = rows[np.arange(len(rows)) % batch_size % self.count == self.rank]
        return mine

    def share_size(self, batch_size: int) -> int:
        """Return the number of images of a batch that are this process's."""
        return len(range(batch_size)[self.rank :: self.count])
