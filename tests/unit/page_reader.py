"""An HTML page as a test reads it: its elements, the rows of its tables, and the text and pictures of its parts."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image


class PageReader(HTMLParser):
    """Reads a page: `elements` (tag, attributes), `rows` of tables as texts, and what belongs to the last id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.pictures: dict[str, list[str]] = {}
        self.titles: dict[str, list[str]] = {}
        self.text = ""
        self._part = ""
        self._cell: list[str] | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        self._part = attributes.get("id", self._part)
        if tag == "tr":
            self.rows.setdefault(self._part, []).append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "img":
            self.pictures.setdefault(self._part, []).append(attributes["src"])
            self.titles.setdefault(self._part, []).append(attributes.get("title", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[self._part][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def picture(url: str) -> Image.Image:
    """Return the picture in a data URL, decoded."""
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    image.load()
    return image
