"""Which rows train, which choose the checkpoint, and which only judge.

Validation is always taken from rows that would train; test rows choose nothing. Single images are dealt by a number
drawn from their content: the same images, labels and spec give the same split on every machine. When images or classes
are added, nearly all others stay on their side, so that an older network is not judged on images of its training.
Groups are dealt by their order: another group may move many.
scikit-learn is imported only where groups need it: it takes a second.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

FORMAT = 2  # raise it where the same images and spec get another split

Rows = npt.NDArray[np.int64]
Test = Literal["auto", "given", "folds"]
Pool = Literal["all", "train"]
By = Literal["image", "group"]
Draws = npt.NDArray[np.float64]  # one in [0, 1) for each row


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SplitSpec:
    """How labelled records are split.

    `test` "given" judges on the test side of the data set's own layout; "folds" on fold `fold` of `folds` stratified
    ones over all labelled records (`pool` "all") or over those of the layout's train side (`pool` "train"); "auto" on
    the layout's test side if it has a labelled image, else on a fold. `by` "group" never divides a group. `validation`
    is the share, in [0, 0.5], of the rest that chooses the checkpoint. `images_per_class` limits the training images of
    each class, drawn by `seed`: those of a smaller number are among those of a larger one. A class with labelled images
    in the pool always has at least one to train on.

    Raises:
        ValueError: a value is not one of those allowed; the message names it.
    """

    test: Test = "given"
    folds: int = 10
    fold: int = 0
    pool: Pool = "all"
    by: By = "image"
    validation: float = 0.1
    images_per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        self._check_ranges()

    def _check_types(self) -> None:
        for name, kinds in (("test", Test), ("pool", Pool), ("by", By)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"split.{name} is {getattr(self, name)!r}: set it to {_either(get_args(kinds))}")
        for name in ("folds", "fold", "seed", *([] if self.images_per_class is None else ["images_per_class"])):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"split.{name} is {getattr(self, name)!r}: set it to a whole number")
        if type(self.validation) not in (int, float):
            raise ValueError(f"split.validation is {self.validation!r}: set it to a share from 0 to 0.5")

    def _check_ranges(self) -> None:
        if self.folds < 2:
            raise ValueError(f"split.folds is {self.folds}: set it to 2 or more")
        if not 0 <= self.fold < self.folds:
            raise ValueError(f"split.fold is {self.fold}: with split.folds={self.folds} it is 0 to {self.folds - 1}")
        if not 0 <= self.validation <= 0.5:
            raise ValueError(f"split.validation is {self.validation}: set it to a share from 0 to 0.5")
        if self.images_per_class is not None and self.images_per_class < 1:
            raise ValueError(f"split.images_per_class is {self.images_per_class}: set it to 1 or more, or to null")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"split.seed is {self.seed}: set it to a whole number from 0 to 2^32 - 1")

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> "SplitSpec":
        """Read the configuration's `split` node.

        Raises:
            ValueError: it has an unknown setting, or one with a wrong value.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(map(str, node)) - fields)
        if unknown:
            raise ValueError(f"split.{unknown[0]} is not a setting; known: {', '.join(sorted(fields))}")
        return cls(**{str(name): value for name, value in node.items()})


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Rows of a prepared data set, int64, ascending; `test` may hold rows without a label.

    `transformed` are rows of the store's transformed copies, all of them made from rows in `train`.
    """

    train: Rows
    validation: Rows
    test: Rows
    transformed: Rows = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))


def split(
    spec: SplitSpec,
    labels: Rows,
    on_test_side: npt.NDArray[np.bool_],
    content: npt.NDArray[np.uint64],
    twins: Rows,
    groups: Rows,
) -> Split:
    """Split the rows 0 to N - 1.

    All arrays have length N. `labels` is -1 for a row without a label. `content` is a hash of each row's image.
    `twins` has one number for all rows of equal content, or -1 for unique content: of twins in a pool only the first is
    used, so that no content is on two sides. `groups` has one number for the rows of a group, or -1 for a row that is
    its own group.

    Raises:
        ValueError: too few images or groups for what is asked; the message says which.
    """
    labelled = np.flatnonzero(labels >= 0)
    train_side = labelled[~on_test_side[labelled]]
    if spec.test == "given" or (spec.test == "auto" and on_test_side[labelled].any()):
        pool, test = train_side, np.flatnonzero(on_test_side)
        if spec.by == "group":
            _refuse_shared_groups(groups[pool], groups[test])
    else:
        pool = labelled if spec.pool == "all" else train_side
        pool, test = _take_fold(spec, pool, labels, content, twins, groups)
    if not len(pool):
        raise ValueError("no labelled image is left to train on: give the train side images, or set split.test=folds")
    held_out = _validation(spec, pool, labels, content, groups)
    train = pool[~held_out]
    if spec.images_per_class is not None:
        train = train[_at_most(spec.images_per_class, labels[train], _draws(content[train], spec.seed, "limit"))]
    return Split(train=train, validation=pool[held_out], test=test)


def _take_fold(
    spec: SplitSpec, pool: Rows, labels: Rows, content: npt.NDArray[np.uint64], twins: Rows, groups: Rows
) -> tuple[Rows, Rows]:
    """Return the rows of `pool` outside the fold of `spec`, and the rows in it, which are to test on."""
    pool = _without_twins(pool, twins)
    if spec.by == "group":
        members = _whole_groups(pool, groups)
        folds = _folds_of_groups(spec, spec.folds, labels[pool], members)
    else:
        members = None
        folds = _folds(spec.folds, labels[pool], _draws(content[pool], spec.seed, "folds"))
    in_test = _leave_each_class(folds == spec.fold, labels[pool], members)
    if not in_test.any():
        raise ValueError("no image is left to test on: add images, or set split.by=image")
    return pool[~in_test], pool[in_test]


def _validation(
    spec: SplitSpec, pool: Rows, labels: Rows, content: npt.NDArray[np.uint64], groups: Rows
) -> npt.NDArray[np.bool_]:
    """Mark the rows of `pool` that choose the checkpoint."""
    if spec.validation == 0:
        return np.zeros(len(pool), bool)
    if spec.by == "image":
        return _stratified_share(spec.validation, labels[pool], _draws(content[pool], spec.seed, "validation"))
    members = _whole_groups(pool, groups)
    parts = min(round(1 / spec.validation), len(np.unique(members)))
    return _leave_each_class(_folds_of_groups(spec, parts, labels[pool], members) == 0, labels[pool], members)


def _draws(content: npt.NDArray[np.uint64], seed: int, purpose: str) -> Draws:
    """Return a number for each row, drawn from its content, the seed and a purpose (splitmix64, Vigna 2015)."""
    salt = int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8], "little")
    mixed = content ^ np.uint64(salt)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _in_order(labels: Rows, draws: Draws) -> Iterator[Rows]:
    """Yield the positions of each class, from the lowest draw to the highest."""
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        yield rows[np.argsort(draws[rows], kind="stable")]


def _at_most(limit: int, labels: Rows, draws: Draws) -> npt.NDArray[np.bool_]:
    """Mark up to `limit` rows of each class."""
    mask = np.zeros(len(labels), bool)
    for rows in _in_order(labels, draws):
        mask[rows[:limit]] = True
    return mask


def _without_twins(rows: Rows, twins: Rows) -> Rows:
    alike = twins[rows]
    _, first = np.unique(alike, return_index=True)
    keep = alike < 0
    keep[first] = True
    return rows[keep]


def _whole_groups(rows: Rows, groups: Rows) -> Rows:
    """Number the groups of `rows`; each row without a group gets a unique number."""
    members = groups[rows].copy()
    if (members < 0).all():
        raise ValueError("split.by=group, but this data set's records name no groups: set split.by=image")
    alone = members < 0
    members[alone] = groups.max() + 1 + np.arange(alone.sum())
    return members


def _leave_each_class(held_out: npt.NDArray[np.bool_], labels: Rows, members: Rows | None) -> npt.NDArray[np.bool_]:
    """Return `held_out` without one image, or one group, of each class that it would leave nothing to train on."""
    held_out = held_out.copy()
    for label in np.setdiff1d(labels[held_out], labels[~held_out]):
        if (labels[~held_out] == label).any():  # a group that an earlier class gave back has brought one
            continue
        first = int(np.flatnonzero(labels == label)[0])
        held_out[first if members is None else members == members[first]] = False
    return held_out


def _refuse_shared_groups(train: Rows, test: Rows) -> None:
    shared = np.intersect1d(train[train >= 0], test[test >= 0])
    if len(shared):
        raise ValueError(
            f"split.by=group with split.test=given, but {len(shared)} groups are on both sides of the layout:"
            " set split.test=folds"
        )


def _folds(parts: int, labels: Rows, draws: Draws) -> Rows:
    """Return the fold, 0 to `parts` - 1, of each row: of each class as many in each fold, give or take one."""
    limit = int(np.bincount(labels).max(initial=0))
    if limit < 2:
        raise ValueError(
            "every class has only one image: give at least one class a second one, since the test images are held out"
        )
    if limit < parts:
        raise ValueError(_too_many_folds(parts, limit, f"even the largest class has only {limit} images"))
    folds = np.empty(len(labels), np.int64)
    for rows in _in_order(labels, draws):
        # Classes that the folds do not divide begin at different places, else the first folds would get all the rest.
        start = draws[rows[0]] * 2.0**20 % 1.0  # the lower digits of the lowest draw
        folds[rows] = (np.arange(len(rows)) + start) * parts // len(rows) % parts
    return folds


def _folds_of_groups(spec: SplitSpec, parts: int, labels: Rows, members: Rows) -> Rows:
    """Return the fold, 0 to `parts` - 1, of each row, where all rows of a group have the same."""
    from sklearn.model_selection import StratifiedGroupKFold

    limit = len(np.unique(members))
    if limit < 2:
        raise ValueError("there is only one group to divide: set split.by=image, or give records of more groups")
    if limit < parts:
        raise ValueError(_too_many_folds(parts, limit, f"there are only {limit} groups"))
    folds = np.empty(len(labels), np.int64)
    dealer = StratifiedGroupKFold(parts, shuffle=True, random_state=spec.seed)
    with warnings.catch_warnings():
        # A class with fewer images than folds is no fault: it is absent from some folds.
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, rows) in enumerate(dealer.split(np.zeros(len(labels)), labels, members)):
            folds[rows] = number
    return folds


def _too_many_folds(parts: int, limit: int, reason: str) -> str:
    return f"cannot make {parts} folds: {reason}; set split.folds to {limit}{' or fewer' if limit > 2 else ''}"


def _stratified_share(part: float, labels: Rows, draws: Draws) -> npt.NDArray[np.bool_]:
    """Mark a share of each class, by largest remainder; a class keeps at least one image to train on.

    scikit-learn's StratifiedShuffleSplit refuses a class of one image, and a share with fewer images than classes.
    """
    classes = list(_in_order(labels, draws))
    counts = np.array([len(rows) for rows in classes])
    room = counts - 1
    target = min(max(1, round(part * len(labels))), int(room.sum()))
    exact = part * counts
    share = np.minimum(np.floor(exact).astype(np.int64), room)
    # Largest remainder first; among equal ones the lowest draw.
    order = np.lexsort(([draws[rows[0]] for rows in classes], share - exact))
    while share.sum() < target:
        for index in order:
            if share[index] < room[index] and share.sum() < target:
                share[index] += 1
    mask = np.zeros(len(labels), bool)
    for rows, size in zip(classes, share, strict=True):
        mask[rows[:size]] = True
    return mask


def _either(values: Sequence[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} or {last}"
