"""The page in Chromium against a real TorchServe: answers, heat maps, corrections, camera, live figures, secrets."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    FileChooser,
    FilePayload,
    Locator,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from handlers.observation import segments
from handlers.requests.labels import LEAST_FAMILIAR
from monitoring import feedback
from monitoring.web import corrections
from monitoring.web.server import PageServer
from monitoring.web.site import Site
from serving import archive
from serving import server as server_module
from serving.client import Client
from serving.lifecycle import exporter, launch
from synthetic import moths
from tests.server.conftest import CLASSES, CONFIG, ROOT, RunningServer, export, free_offset, picture
from tests.server.flowers import NAMES, SIDE, flowers, save_flowers
from tests.server.test_drift import save_watched
from tests.server.test_familiarity import black
from tests.server.test_metrics import samples
from tests.unit.test_classifier import png
from tests.until import until

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in PROGRAMS if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")

NAME, UNLOGGED = "watched", "odd"
ODD = "<b>bee</b>"  # a class whose name is no markup
WAIT = 30_000  # milliseconds
SETTLED = 500  # milliseconds in which a page reads an answer, or sends a request that is due
LARGEST_PICTURE = 150_000  # bytes
NARROW = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def home(server: RunningServer) -> Iterator[Path]:
    """Return the directory of a server with an exporter, and two models more: one logs its answers."""
    runs, store = server.root / "runs", server.root / "model_store"
    settings = ["handler.precision=fp32", "minWorkers=1", "maxWorkers=1"]
    watched = save_watched(runs / NAME).parent
    odd = export(runs / UNLOGGED, (ODD, *CLASSES["shapes"][1:])).parent
    built = [
        archive.build(name, "1.0", run=run, store=store, overrides=[*settings, *more], rehearse=False)
        for name, run, more in ((NAME, watched, ["handler.log=1"]), (UNLOGGED, odd, []))
    ]
    with pytest.MonkeyPatch.context() as patch, server.also_serving(built):
        patch.setenv("PYTHONPATH", str(ROOT))
        with exporter.beside(server.root):
            yield server.root


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Return the address of the page, as its command prints it."""
    command = [sys.executable, "-m", "monitoring.page", "--name", NAME]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert match
        yield match[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium with a camera that shows a moving picture."""
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        # A container's root has no sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=camera, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


class Visit:
    """A page in a browser that records all its traffic and all its errors."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.address = address
        self.responses: list[Response] = []
        self.requests: list[Request] = []
        self.errors: list[str] = []
        context.on("response", lambda response: self.responses.append(response))
        context.on("request", lambda request: self.requests.append(request))
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.goto(address)

    def connected(self) -> Page:
        """Return the page once it knows its model."""
        expect(self.page.locator("#about")).to_contain_text("version 1.0", timeout=WAIT)
        return self.page

    def add(self, files: dict[str, bytes]) -> Locator:
        """Choose images; return their cards once each is answered, newest first."""
        self.page.locator("#files").set_input_files([payload(name, body) for name, body in files.items()])
        expect(self.page.locator("#progress")).to_have_text(re.compile(r"^\d+ images?$"), timeout=WAIT)
        return self.page.locator("article.card")

    @staticmethod
    def live(traffic: Sequence[Request | Response]) -> list[str]:
        """Return the addresses of the camera's frames."""
        return [message.url for message in traffic if "uncounted=1" in message.url]

    def expect_error(self, text: str) -> None:
        """Pass over the browser's line on a request that was refused."""
        assert any(text in error for error in self.errors)
        self.errors = [error for error in self.errors if text not in error]

    def check(self, secrets: set[str]) -> None:
        """Check that no response has a key, none came from elsewhere, and nothing failed."""
        for response in self.responses:
            if response.url.startswith(("blob:", "data:")):
                continue
            assert response.url.startswith(f"{self.address}/"), response.url
            text = json.dumps(response.all_headers()).encode() + response.body()
            assert not [secret for secret in secrets if secret.encode() in text], response.url
        places = {request.url.split("/")[2] for request in self.requests if request.url.startswith("http")}
        assert places == {self.address.removeprefix("http://")}
        assert not self.errors


def payload(name: str, body: bytes) -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": body}


def keys(home: Path) -> set[str]:
    """Return the keys that the server of a directory has now."""
    return {entry["key"] for entry in json.loads((home / "key_file.json").read_text()).values()}


@pytest.fixture
def visit(home: Path, browser: Browser, address: str) -> Iterator[Visit]:
    """Open the page; check after the test that it kept the keys, and loaded nothing from elsewhere."""
    secrets = keys(home)
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        visit = Visit(context, address)
        yield visit
        visit.check(secrets | keys(home))


def serious(page: Page) -> list[str]:
    """Return the serious findings of axe-core."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in found if rule["impact"] in ("serious", "critical")]


def test_images_get_labels_a_heat_map_and_a_warning(home: Path, visit: Visit) -> None:
    page = visit.connected()
    assert page.locator("#model").input_value() == NAME
    with Client(root=home) as client:
        answers = ((image, client.predict(image, NAME).familiarity or 0) for image in map(png, range(30, 60)))
        familiar = next(image for image, familiarity in answers if familiarity > 2 * LEAST_FAMILIAR)
        images = {"familiar.jpg": familiar, "black.png": black(), "cut.jpg": picture(201)[:200]}
        cards = visit.add(images)
        expect(cards).to_have_count(3)
        for name in ("familiar.jpg", "black.png"):
            card, answer = page.get_by_role("article", name=name), client.predict(images[name], NAME)
            bars = card.locator(".label")
            assert bars.locator(".name").all_text_contents() == list(answer.probabilities)
            shares = [f"{100 * value:.1f} %" for value in answer.probabilities.values()]
            assert bars.locator(".share").all_text_contents() == shares
            assert re.fullmatch(rf"{NAME} 1\.0 · \d+ ms · familiarity 0\.\d{{3}}", card.locator(".facts").inner_text())
            expect(card.locator(".heat")).to_have_text(f"Where it sees {answer.label}")
            assert card.locator(".heat img").evaluate("image => image.naturalWidth") == 16
            other = list(answer.probabilities)[1]
            bars.nth(1).click()
            expect(card.locator(".heat")).to_have_text(f"Where it sees {other}")
            expect(bars.nth(1)).to_have_attribute("aria-pressed", "true")
    warnings = page.locator(".card .warn:visible")
    expect(warnings).to_have_count(1)
    expect(page.get_by_role("article", name="black.png").locator(".warn")).to_contain_text("more than 99.9 %")
    expect(page.get_by_role("article", name="cut.jpg").locator(".facts.bad")).to_contain_text("truncated")
    visit.expect_error("400 (Bad Request)")
    page.get_by_label("Heat maps").uncheck()
    expect(page.locator(".heat:visible")).to_have_count(0)
    page.get_by_role("button", name="Remove all").click()
    expect(cards).to_have_count(0)


def test_a_correction_is_in_the_result_of_make_feedback(
    home: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit.connected()
    images = {"one.jpg": picture(300), "two.jpg": picture(301)}
    visit.add(images)
    one, two = (page.get_by_role("article", name=name) for name in ("one.jpg", "two.jpg"))
    answers = [card.locator(".name").first.inner_text() for card in (one, two)]
    one.get_by_role("button", name="This is wrong").click()
    expect(one.get_by_label("Right class")).to_be_focused()
    truth = one.get_by_label("Right class").input_value()
    one.get_by_role("button", name="Save").click()
    expect(one.get_by_role("status").last).to_have_text(f"Saved as {truth}.")
    expect(one.get_by_role("button", name="This is wrong")).to_be_focused()
    two.get_by_role("button", name="This is right").click()
    expect(two.get_by_role("status").last).to_have_text(f"Saved as {answers[1]}.")
    command = two.locator("code").inner_text()
    table = Path(command.partition("LABELS=")[2])
    assert command == f"make feedback NAME={NAME} LABELS={table}" and truth != answers[0]
    folder, digests = launch.predictions(home) / NAME, {hashlib.sha256(body).hexdigest() for body in images.values()}
    until(lambda: {row["sha256"] for row, _ in segments.read(folder)} >= digests, 30)
    monkeypatch.chdir(home)
    assert feedback.main([NAME, str(table)]) == 0
    result = json.loads((folder / feedback.FIGURES).read_text())["versions"]["1.0"]
    assert (result["images"], result["right"]) == (2, 1)
    assert result["confusion"] == [{"label": truth, "answer": answers[0], "images": 1}]


def test_a_renewed_key_is_read_again(server: RunningServer, home: Path, visit: Visit) -> None:
    visit.connected()
    old = keys(home)
    with server.operator() as operator:
        assert operator.get("/token", params={"type": "inference"}, headers=server.token("API")).status_code == 200
    until(lambda: keys(home) != old, 10)
    card = visit.add({"again.jpg": picture(306)})
    expect(card.locator(".share").first).to_contain_text("%")


def test_an_answer_that_is_not_logged_is_labelled_by_its_image(home: Path, visit: Visit) -> None:
    page = visit.connected()
    page.locator("#model").select_option(UNLOGGED)
    expect(page.locator("#about")).to_contain_text("3 classes")
    body = picture(302)
    card = visit.add({"circle.jpg": body})
    expect(card.locator(".facts")).to_have_text(re.compile(rf"^{UNLOGGED} 1\.0 · \d+ ms$"))
    card.get_by_role("button", name="This is wrong").click()
    card.get_by_label("Right class").select_option("square")
    card.get_by_role("button", name="Save").click()
    expect(card.locator(".feedback")).to_contain_text("This answer is not in the log (handler.log)")
    with open(launch.predictions(home) / UNLOGGED / corrections.FILE, newline="") as file:
        assert list(csv.reader(file)) == [list(corrections.COLUMNS), ["", hashlib.sha256(body).hexdigest(), "square"]]


def test_the_name_of_a_class_is_text(visit: Visit) -> None:
    page = visit.connected()
    page.locator("#model").select_option(UNLOGGED)
    expect(page.locator("#about")).to_contain_text("3 classes")
    card = visit.add({"<i>a.jpg": picture(303)})
    names = card.locator(".label .name").all_text_contents()
    assert ODD in names and card.locator("b, i").count() == 0
    card.locator(".label").nth(names.index(ODD)).click()
    expect(card.locator(".heat")).to_have_text(f"Where it sees {ODD}")
    expect(card.locator("figcaption").first).to_have_text("<i>a.jpg")
    assert page.evaluate("document.querySelectorAll('b, i').length") == 0


def test_the_camera_sends_frames_at_a_bounded_rate_and_only_kept_ones_count(home: Path, visit: Visit) -> None:
    page = visit.connected()
    with Client(root=home) as client:
        client.predict(picture(304), NAME)
    until(lambda: counted(home), 30)
    before = counted(home)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#camera-labels .share").first).to_contain_text("%", timeout=WAIT)
    expect(page.get_by_role("button", name="Keep this frame")).to_be_focused()

    def frames_after(milliseconds: int) -> int:
        """Return the answered frames after the page's clock has gone on, which a slow machine does not change."""
        page.clock.run_for(milliseconds)
        return len(visit.live(visit.responses))

    # Four frames a second.
    until(lambda: frames_after(0) == 1, 30)
    page.wait_for_timeout(SETTLED)
    page.clock.run_for(200)
    page.wait_for_timeout(SETTLED)
    assert len(visit.live(visit.requests)) == 1
    until(lambda: frames_after(20) >= 2, 30)
    page.get_by_role("button", name="Keep this frame").click()
    card = page.get_by_role("article", name="frame 1.jpg")
    expect(card.locator(".share").first).to_contain_text("%", timeout=WAIT)
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator("#camera")).to_be_hidden()
    assert page.locator("#video").evaluate("video => video.srcObject") is None
    until(lambda: counted(home) == before + 1, 30)


def counted(home: Path) -> float:
    """Return the images of the logging model that the exporter counts."""
    return samples(home).get(("sightline_confidence_count", frozenset({"model": NAME, "version": "1.0"}.items())), 0.0)


def test_the_second_view_shows_the_exporter_s_figures(home: Path, visit: Visit) -> None:
    page = visit.connected()
    page.get_by_role("tab", name="Live").click()
    with Client(root=home) as client:
        for _ in client.predict_many((picture(seed) for seed in range(1000, 1110)), NAME):
            pass
    version = page.get_by_role("region", name=f"{NAME} 1.0")
    expect(version.get_by_role("status")).to_have_text(re.compile("^No drift|^Drift. The newest 100"), timeout=WAIT)
    until(lambda: f"over all {counted(home):.0f} images" in version.inner_text(), 30, promised=True)
    key = frozenset({"model": NAME, "version": "1.0", "window": "100"}.items())
    expect(version.get_by_role("row", name="MMD")).to_contain_text(f"{samples(home)['sightline_drift_mmd', key]:.4f}")
    lines = version.get_by_role("img")
    assert [re.split(", last", line.get_attribute("aria-label") or "")[0] for line in lines.all()] == [
        *("Requests a second", "Mean confidence", "Unfamiliar images", "Drift")
    ]
    until(lambda: "L" in (lines.first.locator("path").last.get_attribute("d") or ""), 30)
    page.locator("#model").select_option(UNLOGGED)
    expect(page.get_by_role("region", name=f"{UNLOGGED} 1.0")).to_contain_text("Requests by status")


def test_without_a_server_and_an_exporter_the_page_says_what_to_start(browser: Browser, tmp_path: Path) -> None:
    shutil.copy(CONFIG, tmp_path)
    with served(tmp_path) as address, browser.new_context() as context:
        page = Visit(context, address).page
        expect(page.get_by_role("alert")).to_contain_text("start one with make serve")
        page.get_by_role("tab", name="Live").click()
        expect(page.locator("#live-notice")).to_contain_text("start it with make watch")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_views_are_accessible_also_on_a_telephone(browser: Browser, address: str, scheme: Any) -> None:
    with browser.new_context(viewport=NARROW, color_scheme=scheme) as context:  # type: ignore[arg-type]
        visit = Visit(context, address)
        page = visit.connected()
        visit.add({"familiar.jpg": picture(200), "black.png": black()})
        page.get_by_role("button", name="This is wrong").first.click()
        expect(page.get_by_label("Right class")).to_be_visible()
        page.get_by_role("button", name="This is right").click()
        expect(page.locator(".saved")).to_be_visible()
        for name in ("Images", "Live"):
            page.get_by_role("tab", name=name).click()
            if name == "Live":
                expect(page.get_by_role("region", name=f"{NAME} 1.0")).to_be_visible()
            assert serious(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server whose model knows flowers, with an exporter."""
    root = tmp_path_factory.mktemp("garden")
    shutil.copy(CONFIG, root)
    run = save_flowers(root / "runs" / "flowers").parent
    settings = ["handler.precision=fp32", "minWorkers=1", "maxWorkers=1", "handler.log=1"]
    archive.build("flowers", "1.0", run=run, store=root / "model_store", overrides=settings, rehearse=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        server_module.start(root=root, offset=free_offset(31_000))
        try:
            with exporter.beside(root):
                yield root
        finally:
            server_module.stop(root=root)


@pytest.fixture
def screenshots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the folder of `--screenshots`, or one that is thrown away."""
    folder: Path = request.config.getoption("--screenshots") or tmp_path
    return folder


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve the page of a directory in this process; yield its address."""
    with contextlib.closing(Site(root)) as site, PageServer(0, site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "scheme", "viewport"),
    [("images", "light", {"width": 960, "height": 860}), ("live", "dark", {"width": 360, "height": 1060})],
)
def test_a_trained_model_is_shown_as_in_the_pictures_of_the_docs(
    garden: Path, browser: Browser, screenshots: Path, view: str, scheme: Any, viewport: Any
) -> None:
    with served(garden) as address, browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        visit = Visit(context, address)
        page = visit.connected()
        if view == "images":
            lily, daffodil = flowers(2, 1)[1:3]
            visit.add({"lily.jpg": lily, "daffodil.jpg": daffodil, "moth.jpg": moths.image(0, 0, 2, 0, SIDE)})
            expect(page.locator(".heat img")).to_have_count(3, timeout=WAIT)
            for name, label in (("lily.jpg", NAMES[1]), ("daffodil.jpg", NAMES[2])):
                card = page.get_by_role("article", name=name)
                expect(card.locator(".label .name").first).to_have_text(label)
                expect(card.locator(".warn")).to_be_hidden()
            expect(page.get_by_role("article", name="moth.jpg").locator(".warn")).to_be_visible()
        else:
            page.get_by_role("tab", name="Live").click()
            status = page.get_by_role("region", name="flowers 1.0").get_by_role("status")
            strange = [moths.image(0, number, 2, 0, SIDE) for number in range(40)]
            with Client(root=garden) as client:
                for bodies, verdict in ((flowers(2, 22), "No drift"), (strange, "Drift. The newest 100 images")):
                    for _ in client.predict_many(bodies, "flowers", concurrency=2):
                        page.wait_for_timeout(50)
                    expect(status).to_contain_text(verdict, timeout=WAIT)
        save(page, screenshots / f"page-{view}.png")


def save(page: Page, path: Path) -> None:
    """Write a picture of what a person sees, small enough for a repository."""
    page.mouse.move(0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
    assert path.stat().st_size < LARGEST_PICTURE


def test_the_page_is_used_by_keyboard(visit: Visit) -> None:
    page = visit.connected()
    # Not `expect_file_chooser`: that asks the browser for the event only when a key is pressed, at times too late.
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))

    def focused() -> str:
        text = "let e = document.activeElement; [e.id, e.textContent.trim()].find(Boolean) ?? e.tagName"
        return str(page.evaluate(text))

    def tab_to(name: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if focused() == name:
                return
        raise AssertionError(f"{name} is not reached, the last was {focused()}")

    page.keyboard.press("Tab")
    assert focused() == "model"
    tab_to("tab-images")
    tab_to("files")
    ring = page.locator("#drop").evaluate("node => getComputedStyle(node).outlineStyle")
    assert ring == "solid"
    page.keyboard.press("Space")
    until(lambda: page.title() and choosers, 30)
    choosers[0].set_files(payload("keys.jpg", picture(305)))
    expect(page.locator(".label").first).to_be_visible()
    tab_to("This is wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Right class")).to_be_focused()
    page.keyboard.press("ArrowDown")
    truth = page.get_by_label("Right class").input_value()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".saved")).to_have_text(f"Saved as {truth}.")
    page.locator("#tab-images").focus()
    page.keyboard.press("ArrowRight")
    assert focused() == "tab-live"
    expect(page.get_by_role("tabpanel", name="Live")).to_be_visible()
    page.keyboard.press("ArrowRight")
    assert focused() == "tab-images"
