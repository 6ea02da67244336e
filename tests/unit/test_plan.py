"""What a start serves, and what it writes down where not all of it loads."""

from pathlib import Path

import pytest

from serving.client.model_status import ModelStatus
from serving.lifecycle.plan import Plan
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive, ArchiveError

KNOWN = Live({"a": LiveModel("2.0", "1.0"), "b": LiveModel("9.0")})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with archives of three models; one that holds a word is damaged."""
    for name in ("a-1.0", "a-2.0", "a-3.0", "b-9.0", "b-10.0", "c-1.0"):
        (tmp_path / f"{name}.mar").touch()
    return tmp_path


@pytest.fixture(autouse=True)
def _check(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Archive) -> None:
        if self.path.read_text():
            raise ArchiveError(f"{self.path.name} is not a complete archive")

    monkeypatch.setattr(Archive, "check", check)


def first(plan: Plan) -> list[str]:
    return [each.path.stem for each in plan.first]


def status(name: str, version: str) -> ModelStatus:
    return ModelStatus(name, version, 1, 1, 0.0, 60.0, 0, ())


def test_what_was_live_comes_back_and_the_newest_of_the_rest(store: Path) -> None:
    plan = Plan.of(KNOWN, [], store)
    assert first(plan) == ["a-2.0", "b-9.0"] and plan.additions == [("a", "1.0"), ("c", "1.0")]
    assert plan.models == 3 and not plan.strict and not plan.damaged
    assert plan.recorded([]) == KNOWN


def test_a_restored_server_gets_nothing_new(store: Path) -> None:
    assert Plan.of(KNOWN, [], store, restore=True).additions == [("a", "1.0")]


def test_what_is_named_must_be_there_and_whole(store: Path) -> None:
    plan = Plan.of(KNOWN, ["a=2.0"], store)
    assert plan.strict and first(plan) == ["a-2.0"] and plan.additions == [("a", "1.0")]
    assert plan.recorded([]) == Live({"a": LiveModel("2.0", "1.0")})
    assert plan.required == [("a", "2.0")] and plan.optional == []
    (store / "a-2.0.mar").write_text("damaged")
    with pytest.raises(ArchiveError, match=r"a-2\.0\.mar is not a complete archive"):
        Plan.of(KNOWN, ["a=2.0"], store)
    with pytest.raises(ArchiveError, match="no archive of d"):
        Plan.of(KNOWN, ["d"], store)


def test_what_was_live_and_is_not_named_is_forgotten_and_known(store: Path) -> None:
    assert Plan.of(KNOWN, ["a=3.0"], store).forgotten == [("b", "9.0")]
    assert Plan.of(KNOWN, ["b", "a"], store).forgotten == Plan.of(KNOWN, [], store).forgotten == []
    (store / "b-9.0.mar").unlink()
    assert Plan.of(KNOWN, [], store).forgotten == [], "it stays written down"


def test_what_is_named_beside_what_was_live_must_load_and_the_rest_comes_back(store: Path) -> None:
    (store / "b-9.0.mar").write_text("damaged")
    plan = Plan.of(KNOWN, ["a=3.0"], store, restore=True)
    assert first(plan) == ["a-3.0"] and plan.required == [("a", "3.0")] and plan.additions == [("a", "2.0")]
    assert plan.recorded(plan.damaged).models == {"a": LiveModel("3.0", "2.0"), "b": LiveModel("9.0")}
    assert plan.forgotten == []
    (store / "b-9.0.mar").write_text("")
    plan = Plan.of(KNOWN, ["c"], store, restore=True)
    assert first(plan) == ["a-2.0", "b-9.0", "c-1.0"] and plan.required == [("c", "1.0")]
    assert plan.optional == [("a", "2.0"), ("b", "9.0")]
    (store / "c-1.0.mar").write_text("damaged")
    with pytest.raises(ArchiveError, match=r"c-1\.0\.mar is not a complete archive"):
        Plan.of(KNOWN, ["c"], store, restore=True)


def test_where_nothing_was_live_the_newest_of_each_must_load(store: Path) -> None:
    plan = Plan.of(Live({}), [], store)
    assert plan.strict and first(plan) == ["a-3.0", "b-10.0", "c-1.0"]


def test_the_version_before_takes_the_place_of_a_damaged_one_which_stays_written_down(store: Path) -> None:
    (store / "a-2.0.mar").write_text("damaged")
    plan = Plan.of(KNOWN, [], store)
    assert first(plan) == ["a-1.0", "b-9.0"] and plan.additions == [("c", "1.0")]
    assert list(plan.damaged) == [("a", "2.0")]
    assert plan.recorded(plan.damaged) == KNOWN


def test_a_model_of_which_nothing_is_left_costs_the_others_nothing(store: Path) -> None:
    (store / "b-9.0.mar").unlink()
    plan = Plan.of(KNOWN, [], store)
    assert first(plan) == ["a-2.0"] and ("b", "10.0") not in plan.additions, "what was never live does not become so"
    assert plan.recorded(plan.damaged) == plan.recorded([]) == KNOWN
    (store / "a-1.0.mar").unlink()
    (store / "a-2.0.mar").unlink()
    with pytest.raises(ArchiveError, match=r"nothing of what was live can be served: no archive of a 2\.0.*b 9\.0"):
        Plan.of(KNOWN, [], store)


def test_what_does_not_load_is_not_written_down_unless_it_was_live(store: Path) -> None:
    plan = Plan.of(KNOWN, [], store)
    assert plan.recorded([("a", "2.0")]) == KNOWN
    assert plan.recorded([("a", "1.0")]).models["a"] == LiveModel("2.0")
    assert plan.recorded([], [status("a", "1.0"), status("c", "1.0")]).models == {
        **KNOWN.models, "c": LiveModel("1.0"),
    }  # fmt: skip
    assert "c" not in plan.recorded([("c", "1.0")]).models
    named = Plan.of(KNOWN, ["a=3.0"], store)
    assert named.recorded([("a", "2.0")]) == Live({"a": LiveModel("3.0")}), "the user chose another live version"
