"""Where the gateway's configuration is, and where the files of a running gateway are."""

from pathlib import Path

from serving.host import logs

FOLDER = Path(__file__).parents[2] / "deploy" / "gateway"
RUNNING = logs.FOLDER / "gateway"  # in the directory that the gateway is started in
