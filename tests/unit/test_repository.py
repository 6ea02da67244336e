"""Files that a repository is expected to have, and the commands and paths that they name."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.setup import VERSIONS

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
CI = ROOT / ".ci" / "run"


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow[True]) == {"push", "pull_request"} and workflow["permissions"] == {"contents": "read"}
    jobs: dict[str, Any] = workflow["jobs"]
    return jobs


def commands(jobs: dict[str, Any]) -> list[str]:
    """Return the shell commands of all jobs, without `sudo env` and its variables in front."""
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    return [re.sub(r'^sudo env "PATH=\$PATH" (?:[A-Z_]+=\w+ )*', "", line) for line in lines]


def test_every_command_of_the_workflow_exists(jobs: dict[str, Any]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(jobs):
        program, *words = command.split()
        if program == "make":
            verb, *settings = words
            assert re.search(rf"^{verb}:", makefile, re.MULTILINE), command
            assert all(re.search(rf"^{setting.split('=')[0]} \?=", makefile, re.MULTILINE) for setting in settings)
        else:
            assert os.access(ROOT / program, os.X_OK), command
    assert {".ci/run", "make image DEVICE=cpu CPU=1"} <= set(commands(jobs))


def test_the_workflow_runs_every_supported_python(jobs: dict[str, Any]) -> None:
    versions = [tuple(map(int, version.split("."))) for version in jobs["suite"]["strategy"]["matrix"]["python"]]
    assert sorted(versions) == sorted(VERSIONS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest, newest = min(versions), max(versions)
    assert project["requires-python"] == f">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"


def test_actions_are_pinned_and_no_secret_is_read(jobs: dict[str, Any]) -> None:
    actions = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in actions)
    assert "secrets" not in WORKFLOW.read_text()


def test_ci_runs_every_check_and_allows_no_skip() -> None:
    lines = re.findall(r"^make (\S+) (.*)$", CI.read_text(), re.MULTILINE)
    assert [verb for verb, _ in lines] == ["check", "test", "test-slow"]
    assert all("--no-skips" in settings for verb, settings in lines if verb != "check")


def test_paths_of_the_guide_for_contributors_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`([\w.-]*/[\w./-]*)`|\]\(([\w./-]+)\)", text)
    assert len(paths) > 10
    for path in (code or link for code, link in paths):
        assert (ROOT / path).exists() or path.startswith(".venv"), path


def test_the_licence_is_the_declared_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "LICENSE").read_text()
    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])
    assert text.startswith("MIT License\n") and "Sightline contributors" in text
