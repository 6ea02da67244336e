import pytest

from serving.shares import Shares

GB = 10**9


@pytest.mark.parametrize(
    ("models", "cores", "memory", "gpus", "expected"),
    [
        (1, 2, 24 * GB, 0, (2, 1)),
        (1, 16, 128 * GB, 0, (16, 1)),
        (1, 16, 8 * GB, 0, (5, 3)),  # half of the memory holds five
        (2, 8, 64 * GB, 0, (4, 1)),
        (3, 8, 64 * GB, 0, (2, 1)),
        (5, 2, 24 * GB, 0, (1, 1)),
        (1, 1, 1 * GB, 0, (1, 1)),
        (2, 16, 128 * GB, 1, (1, 8)),
        (1, 16, 128 * GB, 4, (4, 4)),
    ],
)
def test_cores_and_memory_are_shared_out(
    models: int, cores: int, memory: int, gpus: int, expected: tuple[int, int]
) -> None:
    shares = Shares.of(models, cores=cores, memory=memory, gpus=gpus)
    assert (shares.workers, shares.threads) == expected
    assert 256 <= shares.heap <= 2048 and f"-Xmx{shares.heap}m" in shares.java
    assert ("TieredStopAtLevel" in shares.java) is (gpus == 0)


def test_what_somebody_wrote_himself_stays() -> None:
    shares = Shares(workers=3, threads=2, heap=700)
    assert (
        shares.properties("vmargs=-XX:+A -Db=c\n")
        == "default_workers_per_model=3\nvmargs=-XX:+A -Db=c " + shares.java + "\n"
    )
    assert shares.properties("default_workers_per_model=1\nvmargs=-Xmx1g\n") == "\n"


def test_threads_that_the_environment_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Shares(workers=3, threads=2, heap=700)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert shares.environment() == {"OMP_NUM_THREADS": "2", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert shares.environment() == {}


def test_this_machine_has_shares() -> None:
    shares = Shares.of_this_machine(1)
    assert shares.workers >= 1 and shares.threads >= 1
