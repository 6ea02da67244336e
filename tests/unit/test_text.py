"""Names of classes and files are text: no table, picture or spreadsheet takes them for markup, a formula or a cell."""

import ast
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from handlers.requests.labels import Labels
from serving import predict
from tests.campaigns import pictures as comparison
from training import pictures
from training.data import index

ROOT = Path(__file__).parents[2]
FOLDERS = ("serving", "pipeline", "training", "benchmarks")
NAMES = ("[red]", "[/dev]", "$x_$", ":smile:", "=1+1", "error", "<b>&", "\\n{}%s", "[link=x]y[/link]")


def test_every_console_prints_text_as_it_is() -> None:
    consoles = []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                consoles.append(
                    (str(path.relative_to(ROOT)), node.lineno, settings.get("markup"), settings.get("emoji"))
                )
    assert len(consoles) > 8
    assert [console for console in consoles if console[2:] != ("False", "False")] == []


def test_a_table_of_answers_shows_each_name_as_it_is() -> None:
    page = io.StringIO()
    console = Console(file=page, width=200, markup=False, emoji=False)
    answers: list[predict.Answer] = [{name: 0.9, f"{name}2": 0.1} for name in NAMES]
    answers.append("no image: [bold]")
    paths = [Path(f"{number}[red].jpg") for number in range(len(NAMES) + 1)]
    assert predict.show("[dim] who", paths, iter(answers), console) == 1
    text = page.getvalue()
    for name in (*NAMES, "0[red].jpg", "no image: [bold]", "[dim] who"):
        assert name in text


def test_a_table_of_answers_shows_familiarity_if_an_answer_has_it() -> None:
    answers: list[predict.Answer] = [Labels({"a": 0.9, "b": 0.1}, 0.37251), Labels({"b": 1.0}, 0.0), "no image"]
    pages = []
    for shown in (answers, [dict(answer) if isinstance(answer, dict) else answer for answer in answers]):
        page = io.StringIO()
        console = Console(file=page, width=200, markup=False, emoji=False)
        assert predict.show("model", [Path(f"{number}.jpg") for number in range(3)], iter(shown), console) == 1
        pages.append(page.getvalue())
    assert "0.372 familiar" in pages[0] and "0.000 unfamiliar" in pages[0] and "b 10.00%" in pages[0]
    assert "familiar" not in pages[1] and "b 10.00%" in pages[1]


def test_a_comparison_shows_paths_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"projects": {"a[b]": {"same": 1}}, "outcomes": {"same": 1}, "faults": {"c/[red]d.png": "wrong: [bold]"}}
    comparison.show(result)
    text = capsys.readouterr().out
    assert "c/[red]d.png: wrong: [bold]" in text and " a[b] " in text


def test_pictures_take_no_name_for_a_formula(tmp_path: Path) -> None:
    few = np.arange(len(NAMES))
    pictures.confusion_matrix(few, np.roll(few, 1), NAMES, tmp_path / "few.png")
    names = [f"{name}{number}" for number in range(5) for name in NAMES]
    many = np.arange(len(names))
    pictures.confusion_matrix(many, np.roll(many, 1), names, tmp_path / "many.png")
    images = [np.zeros((3, 8, 8), np.uint8)] * len(NAMES)
    pictures.contact_sheet(images, NAMES, NAMES, [0.5] * len(NAMES), "title", tmp_path / "sheet.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("few", "many", "sheet"))


@pytest.mark.parametrize(
    ("value", "cell"), [("=1+1", "'=1+1"), ("@a", "'@a"), ("-a.jpg", "'-a.jpg"), ("a=b", "a=b"), (3, 3)]
)
def test_a_spreadsheet_computes_no_name(value: object, cell: object) -> None:
    assert index.spreadsheet_cell(value) == cell


def test_a_folder_is_searched_by_content_and_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    picture = Image.new("RGB", (8, 8))
    for name, kind in (("a.MPO", "JPEG"), ("b.jpe", "JPEG"), ("c.pbm", "PPM"), ("none", "PNG"), ("sub/d.txt", "GIF")):
        picture.save(tmp_path / name, kind)
    picture.save(tmp_path / ".hidden" / "e.png")
    (tmp_path / "f.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    images, others = predict.images_in(tmp_path)
    assert [path.name for path in images] == ["a.MPO", "b.jpe", "c.pbm", "f.heic", "none", "d.txt"]
    assert [path.name for path in others] == ["empty.png", "notes.jpg"]
    with pytest.raises(predict.InputError, match="holds no image among its 0 files"):
        predict.images_in(tmp_path / "empty")


def test_a_folder_that_a_link_leads_to_is_read_once_and_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    for image in (folder / "a.png", other / "b.png"):
        image.parent.mkdir()
        Image.new("RGB", (4, 4)).save(image)
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(folder / "pipe.png")
    images, others = predict.images_in(folder)
    assert images == [folder / "a.png", folder / "linked" / "b.png"]
    assert others == [folder / "gone.png", folder / "pipe.png"]
