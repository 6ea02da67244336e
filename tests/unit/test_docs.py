"""The documentation: it builds as a site that loads nothing from outside, and names only what exists."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README_BYTES, FIRST_SCREEN = 9_216, 25  # bytes, lines
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as both GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_a_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= README_BYTES
    first = text.splitlines()[:FIRST_SCREEN]
    assert any(line.startswith("make demo") for line in first) and any(line.startswith("make test") for line in first)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in LINK.findall(without_code(page.read_text())):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor[1:] in anchors(file), f"{page.name} links to {target}{anchor}"


def places() -> list[tuple[str, str]]:
    """Return the files and the names of each answer under "Where to find it" in docs/design.md.

    An answer of several files has one name for each; one of several names and one file has all names in it.
    """
    section = (ROOT / "docs" / "design.md").read_text().partition("## Where to find it")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    pairs: list[tuple[str, str]] = []
    for _, files, names_in_them in rows[1:]:
        paths, answers = re.findall("`(.+?)`", files), re.findall("`(.+?)`", names_in_them)
        pairs += zip(paths * len(answers) if len(paths) == 1 else paths, answers, strict=True)
    return pairs


def names(path: Path) -> set[str]:
    """Return the names of a file: classes, functions and assigned names of Python, keys of YAML."""
    if path.suffix == ".yaml":
        return set(re.findall(r"^\s*(\w+):", path.read_text(), flags=re.MULTILINE))
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return found | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_there_are_places_for_the_usual_questions() -> None:
    assert len(places()) >= 25


@pytest.mark.parametrize("place", places(), ids=lambda place: f"{place[0]}:{place[1]}")
def test_every_place_exists(place: tuple[str, str]) -> None:
    path, name = place
    assert (ROOT / path).is_file(), path
    assert set(name.split(".")) <= names(ROOT / path), f"{path} has no {name}"


THREATS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text())


def test_every_threat_has_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    assert len(THREATS) == len(rows) - 1  # the head


@pytest.mark.parametrize(("path", "name"), THREATS)
def test_the_test_of_a_threat_exists(path: str, name: str) -> None:
    assert name in names(ROOT / path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    code = r"`((?:handlers|training|serving|pipeline|benchmarks|synthetic|tests)/[\w/.*-]*)`"
    for path in re.findall(code, page.read_text()):
        assert list(ROOT.glob(path.rstrip("/"))), f"{page.name} names {path}"
    for module in re.findall(r"python -m ((?:training|serving|pipeline|benchmarks|tests)[\w.]*)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page.name} runs {module}"


class Loaded(HTMLParser):
    """Collects what a browser loads with a page: scripts, style sheets, fonts, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        loads = named.get("href") if tag == "link" else named.get("src")
        if loads:
            self.addresses.append(loads)


def test_the_site_builds_without_a_warning_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    for builder in ("html", "doctest"):
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder]
        done = subprocess.run(
            [*command, "-d", str(tmp_path / "read"), "docs", str(tmp_path / builder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert {page.stem for page in PAGES if page.parent.name == "docs"} <= {page.stem for page in pages}
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        assert not [each for each in loaded.addresses if re.match(r"(https?:)?//", each)], page.name
    for style in (tmp_path / "html" / "_static").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text()), style.name
    assert "Client" in (tmp_path / "html" / "reference.html").read_text()
