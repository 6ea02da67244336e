"""Everything that decides the contents of a prepared data set, and the key that says whether it is up to date.

Nothing here imports torch: an unchanged data set is recognised before the slow imports begin.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from handlers import naming
from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.spec import Colour, Interpolation, PreprocessSpec, Resize
from training.data import readers
from training.data.readers.folder import walk
from training.data.records import DatasetError

SCHEMA_VERSION = 1
StoreKind = Literal["decoded", "encoded", "auto"]

# Modules whose change alters the prepared pixels or records.
_CODE = (
    *(
        f"handlers.images.{name}"
        for name in ("decoding", "jpeg", "orientation", "colours", "limits", "pillow", "tiff", "avif")
    ),
    "handlers.preprocessing",
    *("training.data.decoders", "training.data.index", "training.data.records", "training.data.tfrecord"),
)
_PACKAGES = ("torch", "kornia", "simplejpeg", "pillow")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Source, reader and format of a prepared data set.

    `raw` is the folder that the reader named `reader` (a module of `training.data.readers`) reads with
    `reader_options`. `image_size`, `resize`, `crop_fraction`, `interpolation` and `colour` are those of
    `PreprocessSpec`. `store` "decoded" keeps uint8 pixels, "encoded" keeps shards of the original bytes; "auto" decodes
    while that needs at most `max_decoded_gb` gigabytes (1e9 bytes). Images of more than `max_bytes` encoded bytes or
    `max_pixels` pixels are left out, and those whose ids are `excluded`.

    Raises:
        DatasetError: a value is not one of those allowed; the message names it.
    """

    name: str
    reader: str
    raw: Path
    image_size: int
    resize: Resize = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    colour: Colour = "rgb"
    reader_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    store: StoreKind = "auto"
    max_decoded_gb: float = 64.0
    max_bytes: int = DEFAULT_LIMITS.max_bytes
    max_pixels: int = DEFAULT_LIMITS.max_pixels
    excluded: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if fault := naming.fault_of(self.name):
            raise DatasetError(fault)
        if self.store not in get_args(StoreKind):
            raise DatasetError(f"dataset.store is {self.store!r}: set it to decoded, encoded or auto")
        for limit in ("max_bytes", "max_pixels"):
            value = getattr(self, limit)
            if type(value) is not int or value < 1:
                raise DatasetError(f"dataset.{limit} is {value!r}: set it to a whole number of at least 1")
        readers.check(self.reader)
        try:
            self.preprocess()
        except (ValueError, TypeError) as error:
            raise DatasetError(f"dataset: {error}") from error

    def preprocess(self) -> PreprocessSpec:
        """Return the geometry and colour; mean and std, which training images decide, are 0.5 here."""
        neutral = (0.5,) * (3 if self.colour == "rgb" else 1)
        return PreprocessSpec(
            image_size=self.image_size,
            resize=self.resize,
            crop_fraction=self.crop_fraction,
            interpolation=self.interpolation,
            colour=self.colour,
            mean=neutral,
            std=neutral,
        )

    @property
    def limits(self) -> Limits:
        """Return the limits of one image."""
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of one prepared image."""
        return self.preprocess().channels, self.image_size, self.image_size

    def content(self) -> dict[str, Any]:
        """Return the part of the recipe that holds on every machine; the fingerprint is made from it."""
        content: dict[str, Any] = {
            "reader": self.reader,
            "reader_options": dict(self.reader_options),
            "image_size": self.image_size,
            "resize": self.resize,
            "crop_fraction": self.crop_fraction,
            "colour": self.colour,
        }
        # A store of before there was a choice is bilinear, and keeps its key.
        return content if self.interpolation == "bilinear" else {**content, "interpolation": self.interpolation}

    def made(self) -> str:
        """Return a hash of all that turns the same files into the same pixels: options, code and package versions."""
        return digest(
            {
                "schema": SCHEMA_VERSION,
                **self.content(),
                "limits": dataclasses.asdict(self.limits),
                "code": {module: _file_hash(_source(module)) for module in _CODE},
                "reading": {path.name: _file_hash(path) for path in readers.sources(self.reader)},
                "packages": {package: importlib.metadata.version(package) for package in _PACKAGES},
            }
        )

    def key(self) -> str:
        """Return a hash of all inputs of this store, among them the raw files by path, size and time.

        Raises:
            DatasetError: the raw folder is missing.
        """
        return digest(
            {
                "made": self.made(),
                "store": self.store,
                "max_decoded_gb": self.max_decoded_gb,
                "raw": str(self.raw.resolve()),
                "listing": listing(self.raw),
                **self.exclusion(),
            }
        )

    def exclusion(self) -> dict[str, Any]:
        """Return number and digest of the excluded ids, for the key and the lineage; empty if there are none."""
        if not self.excluded:
            return {}
        return {"excluded": {"ids": len(self.excluded), "sha256": _digest_of(self.excluded)}}


def digest(document: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that change with anything in a JSON-like `document`."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def listing(raw: Path) -> str:
    """Return a hash over path, size and modification time of every file below `raw`.

    The hashes of the entries are added up, modulo 2^128, so that neither sorting nor a list of all names is needed.

    Raises:
        DatasetError: `raw` is not a folder or holds no file, or a link in it leads nowhere or round in a circle.
    """
    if raw.is_file():
        raise DatasetError(f"{raw} is a file; give the folder that it was unpacked to, or let `make data` unpack it")
    if not raw.is_dir():
        raise DatasetError(f"{raw}: the folder of raw images does not exist; give one that exists with raw=<folder>")
    total, count = 0, 0
    for folder, entries in walk(raw):
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError as error:
                raise DatasetError(f"{entry.path}: a broken link; remove it or fix it") from error
            line = f"{folder}/{entry.name}\0{status.st_size}\0{status.st_mtime_ns}"
            total += int.from_bytes(hashlib.blake2b(line.encode(errors="surrogateescape"), digest_size=16).digest())
            count += 1
    if not count:
        raise DatasetError(f"{raw}: this folder holds no files; put the raw images there, or give another raw=<folder>")
    return f"{count}:{total % (1 << 128):032x}"


def _digest_of(ids: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sorted(ids)).encode(errors="surrogateescape")).hexdigest()


def _source(module: str) -> Path:
    # Found, not imported: the modules of `handlers` bring torch.
    module_spec = importlib.util.find_spec(module)
    assert module_spec is not None and module_spec.origin is not None, module
    return Path(module_spec.origin)


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
