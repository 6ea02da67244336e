"""The settings in the `handler:` section of `model-config.yaml`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from handlers.images.limits import DEFAULT_LIMITS, Limits

DEVICES = ("auto", "cuda", "cpu")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
WHOLE = (
    *("top_k", "max_bytes", "max_pixels", "max_images", "max_request_pixels", "batch_seconds"),
    *("log_megabytes", "log_files"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Labels in an answer, the limits of a request, and the precision of the network.

    `top_k` labels are answered; `max_bytes` (encoded) and `max_pixels` (width times height) hold for each image, and
    `max_images` and `max_request_pixels` for all the images of one request. Decoding the images of a batch may
    take `batch_seconds` (see `handlers.budget`). `precision` is "fp32", as evaluated, "bf16", "fp16" on a GPU, "int8"
    on a CPU, or "auto" for the fastest on this machine. `device` is "cpu", "cuda", or "auto" for a GPU that computes.
    `log` is the share of requests in the prediction log (see `handlers.observation.log`), from 0 to 1, and `log_images`
    adds their images; the log of a model has up to `log_files` files of `log_megabytes`.
    """

    top_k: int = 5
    max_bytes: int = DEFAULT_LIMITS.max_bytes
    max_pixels: int = DEFAULT_LIMITS.max_pixels
    max_images: int = 16
    max_request_pixels: int = 4 * DEFAULT_LIMITS.max_pixels  # 16 photographs of 12 megapixels
    batch_seconds: int = 2
    precision: str = "auto"
    device: str = "auto"
    log: float = 0.0
    log_images: bool = False
    log_megabytes: int = 64
    log_files: int = 8

    def __post_init__(self) -> None:
        for name, words in (("precision", PRECISIONS), ("device", DEVICES)):
            if (word := getattr(self, name)) not in words:
                raise ValueError(f"handler: {name} is {word!r}, must be one of {', '.join(words)}")
        if type(self.log) not in (int, float) or not 0 <= self.log <= 1:
            raise ValueError(f"handler: log is {self.log!r}, must be a share of requests from 0 to 1")
        if type(self.log_images) is not bool:
            raise ValueError(f"handler: log_images is {self.log_images!r}, must be true or false")
        for name in WHOLE:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"handler: {name} is {value!r}, must be a whole number of at least 1")

    @property
    def limits(self) -> Limits:
        """Return the limits of one image."""
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)

    @property
    def request_pixels(self) -> int:
        """Return the pixels of one request: one image of the largest size is always within the limit."""
        return max(self.max_request_pixels, self.max_pixels)

    @classmethod
    def read(cls, section: Any) -> "Settings":
        """Return the settings of a section, with the defaults for missing keys (None: for all).

        Raises:
            ValueError: an unknown key, or a value that cannot be.
        """
        if section is None:
            return cls()
        if not isinstance(section, Mapping):
            raise ValueError(f"handler: must be a mapping of settings, is {type(section).__name__}")
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = [key for key in section if key not in names]
        if unknown:
            raise ValueError(f"handler: unknown setting {unknown[0]!r}; known are {', '.join(names)}")
        return cls(**section)
