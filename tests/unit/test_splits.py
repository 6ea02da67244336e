import re

import numpy as np
import numpy.typing as npt
import pytest

from training.data.splits import Rows, Split, SplitSpec, split


def deal(
    spec: SplitSpec,
    labels: Rows,
    *,
    content: npt.NDArray[np.uint64] | None = None,
    test: Rows | None = None,
    twins: Rows | None = None,
    groups: Rows | None = None,
) -> Split:
    none = np.full(len(labels), -1, np.int64)
    side = np.zeros(len(labels), bool)
    if test is not None:
        side[test] = True
    content = drawn(len(labels)) if content is None else content
    return split(spec, labels, side, content, none if twins is None else twins, none if groups is None else groups)


def drawn(count: int) -> npt.NDArray[np.uint64]:
    """Return numbers of so many different images."""
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)


def numbers(*counts: int) -> Rows:
    """Return labels: so many of class 0, of class 1, ..."""
    return np.repeat(np.arange(len(counts)), counts).astype(np.int64)


def assert_disjoint(dealt: Split) -> None:
    rows = np.concatenate([dealt.train, dealt.validation, dealt.test])
    assert len(np.unique(rows)) == len(rows)
    assert all(part.dtype == np.int64 for part in (dealt.train, dealt.validation, dealt.test))


def test_given_keeps_the_layouts_test_side_whole_even_without_labels() -> None:
    labels = numbers(20, 20)
    labels[[3, 4, 25]] = -1
    dealt = deal(SplitSpec(), labels, test=np.array([3, 10, 30]))
    assert dealt.test.tolist() == [3, 10, 30]
    assert not np.isin([4, 25], np.concatenate([dealt.train, dealt.validation])).any()
    assert len(dealt.train) + len(dealt.validation) == 35
    assert_disjoint(dealt)


def test_validation_is_a_stratified_share_of_train() -> None:
    dealt = deal(SplitSpec(validation=0.2), numbers(50, 100, 10))
    assert np.bincount(numbers(50, 100, 10)[dealt.validation]).tolist() == [10, 20, 2]
    assert_disjoint(dealt)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((7, 7, 6), 0.1, {(1, 1, 0)}),  # of 0.7, 0.7 and 0.6
        ((7, 6, 6), 0.25, {(2, 2, 1), (2, 1, 2)}),  # of 1.75, 1.5 and 1.5: five of 19
        ((10, 20), 0.25, {(3, 5)}),
        ((3, 3), 0.01, {(1, 0), (0, 1)}),  # one, however small the share
        ((1, 1, 10), 0.5, {(0, 0, 6)}),  # two of which the small classes have no room for
        ((2, 2, 2), 0.5, {(1, 1, 1)}),
        ((1, 2), 0.5, {(0, 1)}),
        ((1, 1, 1), 0.5, {(0, 0, 0)}),
    ],
)
def test_validation_takes_the_largest_remainders(
    counts: tuple[int, ...], share: float, expected: set[tuple[int, ...]]
) -> None:
    labels = numbers(*counts)
    deals = [deal(SplitSpec(validation=share, seed=seed), labels) for seed in range(20)]
    found = {tuple(np.bincount(labels[dealt.validation], minlength=len(counts)).tolist()) for dealt in deals}
    assert found == expected, "ties are decided by the seed, and nothing else is"
    assert len({tuple(dealt.validation.tolist()) for dealt in deals}) > 1 or not len(deals[0].validation)


def test_validation_by_group_is_that_share_of_the_groups() -> None:
    groups = np.arange(200, dtype=np.int64) // 10
    for share, size in ((0.25, 50), (0.5, 100), (0.1, 20), (0.01, 10)):  # a twentieth is the least that 20 groups have
        dealt = deal(SplitSpec(by="group", validation=share), numbers(100, 100), groups=groups)
        assert len(dealt.validation) == size and len(dealt.train) == 200 - size and not len(dealt.test)


def test_a_row_without_a_group_is_its_own() -> None:
    groups = np.array([7, 7, -1, -1, 3, 3, -1, -1], np.int64)
    specs = [SplitSpec(test="folds", folds=6, fold=fold, by="group", validation=0) for fold in range(6)]
    tests = [deal(spec, numbers(8), groups=groups).test.tolist() for spec in specs]
    assert sorted(map(tuple, tests)) == [(0, 1), (2,), (3,), (4, 5), (6,), (7,)]


def test_groups_of_the_test_side_are_its_own_where_no_group_stands_on_both() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2, -1, -1], np.int64)
    dealt = deal(SplitSpec(by="group", validation=0), numbers(4, 4), groups=groups, test=np.array([4, 5, 7]))
    assert (dealt.train.tolist(), dealt.test.tolist()) == ([0, 1, 2, 3, 6], [4, 5, 7])


def test_the_seed_decides_and_nothing_else() -> None:
    labels = numbers(30, 30)
    first, again, other = (deal(SplitSpec(seed=seed), labels) for seed in (1, 1, 2))
    assert first.validation.tolist() == again.validation.tolist() != other.validation.tolist()


def test_a_class_of_one_image_trains() -> None:
    labels = numbers(1, 1, 40)
    dealt = deal(SplitSpec(validation=0.5), labels)
    assert {0, 1} <= set(dealt.train.tolist())
    assert (labels[dealt.validation] == 2).all()


def test_all_classes_of_one_image_leave_validation_empty() -> None:
    dealt = deal(SplitSpec(), numbers(1, 1, 1))
    assert len(dealt.train) == 3 and len(dealt.validation) == 0


def test_no_validation_where_none_is_asked_for() -> None:
    assert len(deal(SplitSpec(validation=0), numbers(9, 9)).validation) == 0


def test_folds_cover_every_labelled_row_once() -> None:
    labels = numbers(20, 30)
    labels[7] = -1
    parts = [deal(SplitSpec(test="folds", folds=5, fold=fold), labels, test=np.arange(5)) for fold in range(5)]
    for part in parts:
        assert_disjoint(part)
        assert np.bincount(labels[part.test], minlength=2).tolist() in ([4, 6], [3, 6])
    covered = np.sort(np.concatenate([part.test for part in parts]))
    assert covered.tolist() == np.flatnonzero(labels >= 0).tolist()


def test_a_pool_of_train_leaves_the_layouts_test_side_alone() -> None:
    test = np.arange(10, 20)
    dealt = deal(SplitSpec(test="folds", pool="train", folds=5), numbers(30, 30), test=test)
    assert not np.isin(test, np.concatenate([dealt.train, dealt.validation, dealt.test])).any()


def test_of_pooled_twins_only_one_is_used() -> None:
    twins = np.full(40, -1, np.int64)
    twins[[5, 6, 30]] = 5
    parts = [deal(SplitSpec(test="folds", folds=4, fold=fold), numbers(20, 20), twins=twins) for fold in range(4)]
    covered = np.concatenate([part.test for part in parts])
    assert 5 in covered and not np.isin([6, 30], covered).any() and len(covered) == 38


def test_by_group_never_divides_a_group() -> None:
    labels = numbers(100, 100)
    groups = np.arange(200, dtype=np.int64) // 10
    groups[195:] = -1
    spec = SplitSpec(test="folds", folds=5, by="group", validation=0.25)
    dealt = deal(spec, labels, groups=groups)
    sides = [set(groups[part].tolist()) - {-1} for part in (dealt.train, dealt.validation, dealt.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert all(sides)
    assert_disjoint(dealt)


def test_by_group_without_groups_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set split\.by=image"):
        deal(SplitSpec(test="folds", by="group"), numbers(30, 30))


def test_a_group_on_both_given_sides_is_refused() -> None:
    groups = np.arange(40, dtype=np.int64) // 4
    with pytest.raises(ValueError, match=r"1 groups are on both sides.*split\.test=folds"):
        deal(SplitSpec(by="group"), numbers(20, 20), groups=groups, test=np.array([5]))
    with pytest.raises(ValueError, match="2 groups are on both sides"):
        deal(SplitSpec(by="group"), numbers(20, 20), groups=groups, test=np.array([0, 39]))


def test_auto_judges_on_the_layouts_test_side_where_that_has_labels() -> None:
    test, labels = np.arange(5, 15), numbers(30, 30)
    dealt = deal(SplitSpec(test="auto", folds=5), labels, test=test)
    assert dealt.test.tolist() == test.tolist()
    assert not np.isin(test, np.concatenate([dealt.train, dealt.validation])).any()
    for side in (None, test):
        labels[test] = -1
        held_out = deal(SplitSpec(test="auto", folds=5), labels, test=side)
        assert len(held_out.test) == 10 and (labels[held_out.test] >= 0).all()
        assert_disjoint(held_out)


@pytest.mark.parametrize("counts", [(20, 20, 1), (20, 1, 20, 1, 1), (5, 2, 1)])
def test_every_class_is_trained_on_in_every_fold(counts: tuple[int, ...]) -> None:
    labels = numbers(*counts)
    for fold in range(5):
        dealt = deal(SplitSpec(test="folds", folds=5, fold=fold, validation=0.3), labels)
        assert np.bincount(labels[dealt.train], minlength=len(counts)).min() >= 1
        assert len(dealt.test) >= 1
        assert_disjoint(dealt)


def test_every_class_is_trained_on_where_groups_are_held_out() -> None:
    labels = numbers(40, 40, 8)
    groups = np.arange(88, dtype=np.int64) // 8  # the third class is one group
    for fold in range(4):
        dealt = deal(SplitSpec(test="folds", folds=4, fold=fold, by="group", validation=0.25), labels, groups=groups)
        assert np.bincount(labels[dealt.train], minlength=3).min() >= 1
        sides = [set(groups[part].tolist()) for part in (dealt.train, dealt.validation, dealt.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"largest class has only 3 images; set split\.folds to 3 or fewer$"):
        deal(SplitSpec(test="folds", folds=10), numbers(3, 2))
    with pytest.raises(ValueError, match=r"largest class has only 2 images; set split\.folds to 2$"):
        deal(SplitSpec(test="folds", folds=3), numbers(2, 2))


@pytest.mark.parametrize("folds", [2, 10])
def test_one_image_a_class_asks_for_images_and_not_for_fewer_folds(folds: int) -> None:
    with pytest.raises(ValueError, match="every class has only one image: give at least one class a second one"):
        deal(SplitSpec(test="folds", folds=folds), numbers(1, 1, 1))


def test_one_group_is_refused_with_the_way_out() -> None:
    groups = np.zeros(10, np.int64)
    with pytest.raises(ValueError, match=r"only one group to divide: set split\.by=image"):
        deal(SplitSpec(test="folds", folds=2, by="group"), numbers(5, 5), groups=groups)


PARTS = ("train", "validation", "test")


def contents(spec: SplitSpec, labels: Rows, content: npt.NDArray[np.uint64]) -> dict[str, set[int]]:
    """Return which images are on each side."""
    dealt = deal(spec, labels, content=content)
    return {part: set(content[getattr(dealt, part)].tolist()) for part in PARTS}


@pytest.mark.parametrize("fold", [0, 3])
def test_an_image_more_moves_hardly_any_other(fold: int) -> None:
    content, labels = drawn(301), numbers(40, 61, 200)
    spec = SplitSpec(test="folds", folds=5, fold=fold)
    after = contents(spec, labels, content)
    for place in (0, 39, 40, 77, 150, 300):  # a new file may have any name, and so stand anywhere
        without = np.arange(301) != place
        before = contents(spec, labels[without], content[without])
        for part in PARTS:
            assert len((before[part] ^ after[part]) - {int(content[place])}) <= 4, part


@pytest.mark.parametrize("inserted", [0, 1, 2])
def test_a_class_more_moves_no_image_of_large_ones(inserted: int) -> None:
    content, labels = drawn(300), numbers(90, 110, 100)
    others = labels != inserted
    for spec in (SplitSpec(validation=0.1), SplitSpec(test="folds", folds=5), SplitSpec(images_per_class=7)):
        after = contents(spec, labels, content)
        before = contents(spec, np.unique(labels[others], return_inverse=True)[1].astype(np.int64), content[others])
        new = set(content[~others].tolist())
        assert {part: rows - new for part, rows in after.items()} == before


def test_the_order_of_the_rows_changes_nothing() -> None:
    content, labels = drawn(90), numbers(20, 40, 30)
    order = np.random.default_rng(1).permutation(90)
    spec = SplitSpec(test="folds", folds=4, images_per_class=9)
    assert contents(spec, labels, content) == contents(spec, labels[order], content[order])


def test_classes_of_a_few_images_fill_all_folds_alike() -> None:
    labels = np.concatenate([np.repeat(np.arange(1000), 3), np.full(10, 1000)]).astype(np.int64)
    sizes = [len(deal(SplitSpec(test="folds", folds=10, fold=fold), labels).test) for fold in range(10)]
    assert 240 <= min(sizes) <= max(sizes) <= 365


def test_classes_smaller_than_the_folds_are_no_fault() -> None:
    dealt = deal(SplitSpec(test="folds", folds=5), numbers(20, 2))
    assert len(dealt.test) in (4, 5)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="no labelled image"):
        deal(SplitSpec(), numbers(3), test=np.arange(3))


def test_fewer_images_per_class_are_among_those_of_more() -> None:
    labels = numbers(30, 5)
    some, more = (deal(SplitSpec(images_per_class=number), labels) for number in (3, 8))
    assert np.bincount(labels[some.train]).tolist() == [3, 3]
    assert np.bincount(labels[more.train])[0] == 8
    assert set(some.train.tolist()) <= set(more.train.tolist())
    assert some.validation.tolist() == more.validation.tolist()
    others = [deal(SplitSpec(images_per_class=3, validation=0, seed=seed), labels).train.tolist() for seed in range(4)]
    assert len(set(map(tuple, others))) == 4, "the seed draws them"
    assert {label for each in others for label in labels[each].tolist()} == {0, 1}


@pytest.mark.parametrize(
    "setting",
    [{"folds": 2, "fold": 1}, {"fold": 9}, {"validation": 0.5}, {"validation": 0}, {"seed": 0}, {"seed": 2**32 - 1},
     {"images_per_class": 1}, {"images_per_class": None}, {"test": "auto", "pool": "train", "by": "group"}],
)  # fmt: skip
def test_a_setting_within_its_bounds_is_taken(setting: dict[str, object]) -> None:
    spec = SplitSpec.from_config(setting)
    assert {name: getattr(spec, name) for name in setting} == setting


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"test": "half"}, "split.test is 'half': set it to auto, given or folds"),
        ({"pool": "test"}, "split.pool is 'test': set it to all or train"),
        ({"by": "person"}, "split.by is 'person': set it to image or group"),
        ({"folds": 1}, "split.folds is 1: set it to 2 or more"),
        ({"fold": 10}, "split.fold is 10: with split.folds=10 it is 0 to 9"),
        ({"fold": -1}, "split.fold is -1: with split.folds=10 it is 0 to 9"),
        ({"validation": 0.51}, "split.validation is 0.51: set it to a share from 0 to 0.5"),
        ({"validation": -0.1}, "split.validation is -0.1: set it to a share from 0 to 0.5"),
        ({"validation": "tenth"}, "split.validation is 'tenth': set it to a share from 0 to 0.5"),
        ({"validation": True}, "split.validation is True: set it to a share from 0 to 0.5"),
        ({"seed": -1}, "split.seed is -1: set it to a whole number from 0 to 2^32 - 1"),
        ({"seed": 2**32}, "split.seed is 4294967296: set it to a whole number from 0 to 2^32 - 1"),
        ({"seed": "one"}, "split.seed is 'one': set it to a whole number"),
        ({"images_per_class": 0}, "split.images_per_class is 0: set it to 1 or more, or to null"),
        ({"images_per_class": 2.5}, "split.images_per_class is 2.5: set it to a whole number"),
        ({"folds": "five"}, "split.folds is 'five': set it to a whole number"),
        ({"fold": None}, "split.fold is None: set it to a whole number"),
        (
            {"valdation": 0.1},
            "split.valdation is not a setting; known: by, fold, folds, images_per_class, pool, seed, test, validation",
        ),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SplitSpec.from_config(setting)
