"""Any data set of class folders: `<class>/*`, or `train/<class>/*` with `test/<class>/*` beside it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.readers import file_names, sides
from training.data.readers import options as option
from training.data.readers.folder import (
    check_class_folders,
    class_name,
    class_names,
    class_records,
    holds_images,
    listing,
    two_forms,
    wrong_layout,
)
from training.data.records import DatasetError, RawDataset, Record, Split


def read(raw: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read class folders, and the folders in them; classes are the folder names of the train side, sorted.

    A folder named as a train side is, `train/` for one, makes a layout with sides (see `sides.find`): images of `val/`
    count as train if `test/` has classes, and as test if not. Otherwise every folder is a
    class, and every image "train". A class that only the test side has is left to `prepare` to report.

    Options: `classes`, a list of folder names or the number of them to take; `images_per_class`, the most train images
    of each; `labels`: "folders" (the default), or the place of the class in file names: "names" (before the
    number at the end, as in cat.0.jpg) or a regular expression with one group.

    Raises:
        DatasetError: the folder is missing, empty or of another layout, holds fewer than two classes, or a class
            without an image.
    """
    option.check(options, "classes", "images_per_class", "labels")
    per_class = option.count(options, "images_per_class")
    by_name = options.get("labels") not in (None, "folders")
    files, folders = listing(raw)
    if by_name:
        return _read_names(raw, folders, options, per_class)
    if not folders:
        raise wrong_layout(raw, "class folders", "a folder of images for each class", file_names.offer(files))
    layout = {} if _are_classes(options, folders) else _layout(raw, folders)
    layout = layout or {"": "train"}
    train = next(iter(layout))
    in_train = listing(raw / train).folders
    names = class_names(in_train)
    classes = option.choose(options, "classes", names, str(raw / train))
    check_class_folders(raw / train, [folder for folder in in_train if class_name(folder) in classes])
    choice = None if len(classes) == len(names) else classes
    folders_by_side = {side: _class_folders(raw / side, choice) for side in layout}
    remarks = (*two_forms(itertools.chain(*folders_by_side.values())), *_unlabelled(raw, folders, layout))
    return RawDataset(classes, _records(raw, layout, folders_by_side, per_class), remarks=remarks)


def _class_folders(side: Path, choice: Sequence[str] | None) -> list[str]:
    """Return the class folders of a side: those of the classes of a choice, or all of them."""
    return [folder for folder in listing(side).folders if choice is None or class_name(folder) in choice]


def _are_classes(options: Mapping[str, Any], folders: Sequence[str]) -> bool:
    """Return whether the option `classes` names folders of `raw` itself, a class called "train" among them perhaps."""
    selection = options.get("classes")
    return isinstance(selection, Sequence) and not isinstance(selection, str) and {*map(str, selection)} <= set(folders)


def _layout(raw: Path, folders: Sequence[str]) -> dict[str, Split]:
    """Return the split of each side that holds class folders, train first; none where the folders are the classes.

    Raises:
        DatasetError: the train side holds images and no class folders, or may as well be a class.
    """
    named = sides.find(folders)
    if not named:
        return {}
    beside = _classes_beside(raw, folders, named) if len(named) == 1 else []
    inner = {sides.innermost(raw, side): kind for side, kind in named.items()}
    train = next(iter(inner))
    files, classes = listing(raw / train)
    if not classes and beside:
        return {}
    if not classes:
        raise _flat_side(raw, train, files)
    if beside:
        raise DatasetError(
            f"{raw} can be read in two ways: {train}/ holds folders as a train side does, and {beside[0]}/ beside it "
            f"is not a side. Give RAW={raw / train} if its folders are the classes, or list all classes with "
            f'ARGS="+dataset.reader_options.classes=[{train},{beside[0]},…]"'
        )
    return sides.splits({side: kind for side, kind in inner.items() if listing(raw / side).folders})


def _classes_beside(raw: Path, folders: Sequence[str], named: Mapping[str, sides.Kind]) -> list[str]:
    """Return the folders that may be classes, of which the only side may be one too."""
    return [folder for folder in folders if folder not in named and holds_images(raw / folder)]


def _flat_side(raw: Path, side: str, files: Sequence[str]) -> DatasetError:
    first = f"{files[0]} and the like" if files else "nothing"
    return DatasetError(
        f"{raw} is not laid out as class folders: {side}/ holds no folder for each class, but {first}. "
        f"Give a folder that holds {side}/<class>/ and test/<class>/, or <class>/, with RAW=<folder>"
        + file_names.offer(files)
    )


def _unlabelled(raw: Path, folders: Sequence[str], layout: Mapping[str, Split]) -> Iterator[str]:
    """Yield a remark on each folder beside the sides, or side without class folders, whose images are not read."""
    read = {side.split("/")[0] for side in layout}
    for folder in folders if read != {""} else []:
        if folder not in read and holds_images(raw / folder):
            yield f"{folder}/ is not read: it holds no class folders of a train, validation or test side"


def _read_names(raw: Path, folders: Sequence[str], options: Mapping[str, Any], per_class: int | None) -> RawDataset:
    if options.get("classes") is not None:
        raise DatasetError("reader_options.classes chooses among folders: leave it out beside reader_options.labels")
    label = file_names.rule(options["labels"])
    inner = {sides.innermost(raw, side): kind for side, kind in sides.find(folders).items()}
    labelled = {side: kind for side, kind in inner.items() if kind == "train" or file_names.labelled(raw / side, label)}
    return file_names.read(raw, sides.splits(labelled) or {"": "train"}, label, per_class)


def _records(
    raw: Path, layout: Mapping[str, Split], folders_by_side: Mapping[str, list[str]], per_class: int | None
) -> Iterator[Record]:
    for side, split in layout.items():
        yield from class_records(
            raw, side, split, folders_by_side[side], per_class=per_class if split == "train" else None
        )
