"""What Lightning asks about a process that torchrun or Ray has started."""

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

from training.ranks import Ranks


class ExternalProcesses(ClusterEnvironment):
    """The place of this process; Lightning starts none."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks.count

    def set_world_size(self, size: int) -> None:
        """Do nothing: Lightning takes all machines to have as many processes as this one."""

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing, as above."""

    def local_rank(self) -> int:
        return self._ranks.local

    def node_rank(self) -> int:
        return int(os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0")))
