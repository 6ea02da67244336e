"""Which names a data set, a run and a model may have."""

import pytest

from handlers.naming import MAX_CHARACTERS, fault_of, fault_of_run


@pytest.mark.parametrize("name", ["a", "7", "1.10", "a_", "a-b", "A.b-c_d", "x" * MAX_CHARACTERS, "my-token"])
def test_a_name_is_good(name: str) -> None:
    assert fault_of(name) is None and fault_of_run(name) is None


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "_a", "a-", "a.", "a b", "a/b", "ä", "a\n", "x" * (MAX_CHARACTERS + 1), "fold-1/"]
)
def test_a_name_is_refused(name: str) -> None:
    assert "cannot name a model: use 1 to 64 letters" in str(fault_of(name))
    assert fault_of_run(name) == fault_of(name)


@pytest.mark.parametrize("name", ["token", "tokens-2"])
def test_a_name_that_torchserve_reads_otherwise_is_refused(name: str) -> None:
    assert "do not begin with 'token'" in str(fault_of(name))
    assert fault_of_run(name) == fault_of(name)


@pytest.mark.parametrize("run", ["flowers/fold-0", "flowers/fold-12"])
def test_a_fold_is_a_run_and_names_no_model(run: str) -> None:
    assert fault_of_run(run) is None
    assert fault_of(run) is not None


@pytest.mark.parametrize(
    "run",
    ["flowers/", "flowers/fold-", "flowers/fold-x", "flowers/old-1", "flowers/fold-1/fold-2", "-a/fold-1", "/fold-1"],
)
def test_what_is_no_fold_is_refused(run: str) -> None:
    assert "cannot name a model" in str(fault_of_run(run))


def test_a_fold_of_a_run_that_cannot_be_named_says_which_run() -> None:
    assert str(fault_of_run("token/fold-1")).startswith("'token' cannot")
