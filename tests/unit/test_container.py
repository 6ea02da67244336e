"""serving/container.py: the links to the archives of a read-only folder."""

from pathlib import Path

from serving import container


def test_the_store_has_the_archives_that_the_folder_has_now(tmp_path: Path) -> None:
    mounted, store = tmp_path / "mounted", tmp_path / "root" / "model_store"
    mounted.mkdir()
    store.mkdir(parents=True)
    (store / "live.json").write_text("{}")
    for name in ("birds-1.0.mar", "birds-1.0.json", "birds-2.0.mar", "birds-2.0.json", "notes.txt"):
        (mounted / name).write_text(name)
    container.link_store(mounted, tmp_path / "root")
    (mounted / "birds-2.0.mar").unlink()
    (mounted / "birds-2.0.json").unlink()
    (mounted / "birds-3.0.mar").write_text("new")
    container.link_store(mounted, tmp_path / "root")
    assert {path.name for path in store.iterdir()} == {"live.json", "birds-1.0.mar", "birds-1.0.json", "birds-3.0.mar"}
    assert (store / "birds-3.0.mar").read_text() == "new"
