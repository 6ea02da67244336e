"""The report of a search: the best settings, Optuna's pictures and all trials, as one HTML page and as JSON."""

import base64
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from handlers.atomic import write_json, write_text

if TYPE_CHECKING:
    import optuna

PAGE, DOCUMENT = "search.html", "search.json"
FEWEST = 2  # finished trials, below which no importance of a setting can be computed


def write(study: "optuna.Study", folder: Path, verdict: str, command: str) -> None:
    """Write search.html and search.json into the folder of the search."""
    trials = [
        {
            "number": trial.number,
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "state": trial.state.name.lower(),
            "params": trial.params,
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]
    write_json(folder / DOCUMENT, {"verdict": verdict, "command": command, "trials": trials})
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("page.html")
    rows = [{**trial, **_rounded(trial)} for trial in trials]
    settings = sorted({name for trial in trials for name in trial["params"]})
    about = {"name": folder.name, "verdict": verdict, "command": command, "trials": rows, "settings": settings}
    write_text(folder / PAGE, template.render(pictures=list(_pictures(study)), **about))


def _rounded(trial: dict[str, Any]) -> dict[str, Any]:
    value = "" if trial["value"] is None else f"{trial['value']:.4f}"
    params = {
        name: f"{param:.3g}" if isinstance(param, float) else str(param) for name, param in trial["params"].items()
    }
    return {"value": value, "params": params}


def _pictures(study: "optuna.Study") -> Iterator[tuple[str, str]]:
    """Yield the title of each picture, and its PNG file in base64."""
    import matplotlib as mpl

    mpl.use("Agg")
    import optuna
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as draw

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        # A setting of which all finished trials have the same value.
        warnings.filterwarnings("ignore", message="Attempting to set identical low and high")
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        pictures = [("Best log-loss after each trial", draw.plot_optimization_history)]
        if len(complete) >= FEWEST and len({trial.value for trial in complete}) > 1:
            pictures += [
                ("Which settings matter", draw.plot_param_importances),
                ("Log-loss by setting", draw.plot_slice),
                ("Validation error of each epoch", draw.plot_intermediate_values),
            ]
        for title, plot in pictures if complete else ():
            plot(study)
            data = io.BytesIO()
            plt.savefig(data, format="png", dpi=90, bbox_inches="tight")
            plt.close("all")
            yield title, base64.b64encode(data.getvalue()).decode()
