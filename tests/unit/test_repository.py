"""Files that a repository is expected to have, and the commands and paths that they name."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
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
    return [re.sub(r'^sudo env (?:"([A-Z_]+)=\$\1" |[A-Z_]+=\w+ )*', "", line) for line in lines]


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


def faults(workflow: str) -> list[str]:
    """Return the faults of a workflow by the host's schema, which is in the package check-jsonschema."""
    package = pytest.importorskip("check_jsonschema")
    schema = Path(package.__file__).parent / "builtin_schemas" / "vendor" / "github-workflows.json"
    document = yaml.safe_load(workflow)
    document["on"] = document.pop(True)
    return [error.message for error in jsonschema.Draft7Validator(json.loads(schema.read_text())).iter_errors(document)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04"), ("timeout-minutes: 30", "timeout-minutes: soon"), ("", "")],
)
def test_the_workflow_is_valid_for_its_host_and_a_wrong_one_is_not(text: str, wrong: str) -> None:
    found = faults(WORKFLOW.read_text().replace(text, wrong))
    assert bool(found) == bool(wrong), found


def test_packages_are_cached_by_the_locks_and_coverage_has_a_limit(jobs: dict[str, Any]) -> None:
    (cache,) = [step for step in jobs["suite"]["steps"] if step.get("uses", "").startswith("actions/cache@")]
    assert "hashFiles('requirements*.txt')" in cache["with"]["key"] and "matrix.python" in cache["with"]["key"]
    assert cache["with"]["path"] == "${{ env.UV_CACHE_DIR }}" and jobs["suite"]["env"]["UV_CACHE_DIR"]
    assert any("SIGHTLINE_COVERAGE=1 .ci/run" in step.get("run", "") for step in jobs["suite"]["steps"])
    coverage = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert "SIGHTLINE_COVERAGE:+ --cov" in CI.read_text()
    assert coverage["run"]["branch"] and coverage["report"]["fail_under"] >= 80


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
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{verb}:", makefile, re.MULTILINE) for verb, _ in lines)
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
