"""The report as a panel of the run in Weights & Biases to which the training logged."""

import re
from collections.abc import Mapping
from typing import Any

from handlers.run_folder import RunFolder

LATEST = "wandb/latest-run"  # in the folder of a run: a link to that of its last log


def log(run: RunFolder, config: Mapping[str, Any]) -> None:
    """Log the page of a run, to the same run as its training if that was logged from here.

    Raises:
        wandb's own errors: there is no connection or no account, for example.
    """
    import wandb  # takes seconds to import

    tracking, logged = config["tracking"], _logged(run)
    with wandb.init(
        name=str(config["name"]),
        project=tracking["project"],
        entity=tracking["entity"],
        dir=run.path,
        id=logged,
        resume="allow" if logged else None,
    ) as tracked:
        tracked.log({"report": wandb.Html(run.report.read_text(encoding="utf-8"), inject=False)})


def _logged(run: RunFolder) -> str | None:
    """Return the id of the run that was logged last, from the name of its folder."""
    match = re.search(r"run-\d{8}_\d{6}-(.+)$", (run.path / LATEST).resolve().name)
    return match[1] if match else None
