"""Downloads from a server of our own on this machine, and the messages where credentials or the network are missing."""

import hashlib
import http.server
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from training import configuration
from training.data import download
from training.data.download import Archive, fetch_places365
from training.data.records import DatasetError


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


FILES = {
    "lists.tar": _tar({"categories_places365.txt": b"/a/airfield 0\n"}),
    "train.tar": _tar({"data_256/a/airfield/1.jpg": bytes(300_000)}),
}
ARCHIVES = (
    Archive("lists.tar", hashlib.md5(FILES["lists.tar"]).hexdigest(), ("categories_places365.txt",)),
    Archive(
        "train.tar",
        hashlib.md5(FILES["train.tar"]).hexdigest(),
        ("data_256_standard",),
        {"data_256": "data_256_standard"},
    ),
)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` with ranges; `breaks_at` ends the next body of train.tar early; `log` is what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.log: list[tuple[str, str]] = []
        self.breaks_at: int | None = None
        self.ranges = True
        self.promised: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers.get("Range", "")
        self.server.log.append((name, wanted))
        if name not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[name]
        start = int(wanted[len("bytes=") : -1]) if wanted and self.server.ranges else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(self.server.promised or len(data) - start))
        self.end_headers()
        end = len(data)
        if name == "train.tar" and self.server.breaks_at:
            end, self.server.breaks_at = self.server.breaks_at, None
        self.wfile.write(data[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_archives_are_unpacked_renamed_and_deleted(server: Server, tmp_path: Path) -> None:
    out = fetch_places365(tmp_path / "places", server.url, ARCHIVES)
    assert (out / "data_256_standard/a/airfield/1.jpg").stat().st_size == 300_000
    assert sorted(os.listdir(out)) == [".downloading", "categories_places365.txt", "data_256_standard"]


def test_what_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    fetch_places365(tmp_path, server.url, ARCHIVES)
    before = list(server.log)
    fetch_places365(tmp_path, server.url, ARCHIVES)
    assert server.log == before


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks_at = 100_000
    with pytest.raises(DatasetError, match=r"connection was lost.*Run this again.*RAW=<folder>.*RAW=generated"):
        fetch_places365(tmp_path, server.url, ARCHIVES)
    assert not (tmp_path / "data_256_standard").exists()
    fetch_places365(tmp_path, server.url, ARCHIVES)
    assert server.log[-1] == ("train.tar", "bytes=100000-")
    assert (tmp_path / "data_256_standard/a/airfield/1.jpg").stat().st_size == 300_000


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.breaks_at = 100_000
    with pytest.raises(DatasetError, match="connection was lost"):
        fetch_places365(tmp_path, server.url, ARCHIVES)
    server.ranges = False
    fetch_places365(tmp_path, server.url, ARCHIVES)
    assert (tmp_path / "data_256_standard/a/airfield/1.jpg").stat().st_size == 300_000


def test_a_whole_part_only_has_its_sum_checked(server: Server, tmp_path: Path) -> None:
    fetch_places365(tmp_path, server.url, ARCHIVES[:1])
    (tmp_path / "train.tar.part").write_bytes(FILES["train.tar"])
    fetch_places365(tmp_path, server.url, ARCHIVES)
    assert (tmp_path / "data_256_standard").is_dir()


def test_a_wrong_sum_is_refused_and_nothing_kept(server: Server, tmp_path: Path) -> None:
    server.files["train.tar"] = FILES["train.tar"][:-1] + b"!"
    with pytest.raises(DatasetError, match=r"train\.tar arrived damaged.*Run this again"):
        fetch_places365(tmp_path, server.url, ARCHIVES)
    assert sorted(os.listdir(tmp_path)) == [".downloading", "categories_places365.txt"]


def test_an_absent_file_gives_its_status(server: Server, tmp_path: Path) -> None:
    del server.files["train.tar"]
    with pytest.raises(DatasetError, match=r"train\.tar answers with HTTP status 404"):
        fetch_places365(tmp_path, server.url, ARCHIVES)


def test_a_full_disk_is_told_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    server.promised = 10**17
    with pytest.raises(DatasetError, match=r"GB free, lists\.tar needs 200000000\.0 GB.*Make room"):
        fetch_places365(tmp_path, server.url, ARCHIVES)
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_with_other_images_is_not_taken_for_the_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data_256_standard").mkdir()
    with pytest.raises(DatasetError, match=f"{re.escape(str(tmp_path))} holds something that was not downloaded"):
        fetch_places365(tmp_path, server.url, ARCHIVES)
    assert server.log == []


def test_nobody_there_is_no_network(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(DatasetError, match="no network"):
        fetch_places365(tmp_path, url, ARCHIVES)


def _run(dataset: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as somebody whose home is `home`, and who has set nothing but `environment`."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE")}
    return subprocess.run(
        [sys.executable, "-m", "training.data.download", dataset, str(home / "out")],
        env={**clean, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("dataset", ["asl_alphabet", "fingers", "moths", "petals"])
def test_missing_credentials_are_named_with_the_three_ways_on(dataset: str, tmp_path: Path) -> None:
    done = _run(dataset, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: Kaggle credentials are missing")
    for way in ("KAGGLE_USERNAME", "KAGGLE_KEY", "~/.kaggle/kaggle.json", "RAW=<folder>", "RAW=generated", dataset):
        assert way in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_broken_credentials_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/kaggle.json").write_text("{")
    done = _run("fingers", tmp_path)
    assert done.returncode == 1
    assert "kaggle.json" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("dataset", ["fingers", "petals"])
def test_credentials_without_a_network_say_so(dataset: str, tmp_path: Path) -> None:
    # A proxy that nobody answers at is the network that is not there.
    with Server() as closed:
        proxy = closed.url
    done = _run(dataset, tmp_path, KAGGLE_USERNAME="a", KAGGLE_KEY="b", HTTPS_PROXY=proxy, NO_PROXY="", no_proxy="")
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no network")
    assert "RAW=generated" in done.stderr


@pytest.mark.parametrize(
    ("dataset", "why"), [("cats", "there is no such config"), ("class_folders", "its config has no dataset.source")]
)
def test_what_has_no_source_lists_what_there_is(
    dataset: str, why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert download.main([dataset, str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"for '{dataset}', {why}: choose one of asl_alphabet, fingers, moths, petals, places365, or" in error


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of data sets in a copy of the configs."""
    copy = shutil.copytree(configuration.CONFIGS, tmp_path / "configs")
    for module in (configuration, download):
        monkeypatch.setattr(module, "CONFIGS", copy)
    return copy / "dataset"


def test_a_new_data_set_is_one_config(configs: Path) -> None:
    text = (configs / "moths.yaml").read_text()
    (configs / "cats.yaml").write_text(text.replace("gpiosenka/moths-image-datasetclassification", "somebody/cats"))
    assert download.source("cats") == ("kaggle", "somebody/cats")


@pytest.mark.parametrize("wrong", ["{ftp: a/b}", "{kaggle: 3}", "{places365: huge}", "{kaggle: a/b, places365: small}"])
def test_a_source_of_an_unknown_kind_is_refused(wrong: str, configs: Path) -> None:
    text = (configs / "fingers.yaml").read_text()
    (configs / "cats.yaml").write_text(text.replace("{kaggle: koryakinp/fingers}", wrong))
    with pytest.raises(DatasetError, match=r"dataset\.source of cats is .*kaggle_competition: name"):
        download.source("cats")
