"""Every command in a page is checked: run by a test, or named here with the reason why not."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from serving.store import model_config
from training.configuration import compose

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), DOCS / "notebooks" / "index.md"]
REQUESTS = "tests/server/test_documented_requests.py"  # runs every curl command and every Python example
# The verbs that pages name: the test that runs what they do, or why none does.
VERBS = {
    "archive": "tests/unit/test_archive.py",
    "bench": "takes minutes to an hour; tests/server/test_serving_benchmark.py runs one row",
    "compare": "tests/unit/test_compare.py",
    "check": "is the first command of .ci/run",
    "data": "tests/unit/test_data.py",
    "demo": "trains for minutes; tests/server/test_up.py runs the same steps on few images",
    "deploy": "tests/server/test_deploy.py",
    "docs": "tests/unit/test_docs.py",
    "drift": "tests/unit/test_drift_report.py",
    "evaluate": "tests/unit/test_evaluate.py",
    "feedback": "tests/unit/test_feedback.py",
    "gpu-report": "tests/unit/test_gpu_report.py",
    "help": "tests/unit/test_makefile.py",
    "image": "tests/server/test_image.py",
    "inspect": "tests/unit/test_inspection.py",
    "load": "tests/server/test_load.py",
    "lock": "tests/unit/test_lock.py",
    "monitor": "tests/server/test_monitor.py",
    "notebooks": "tests/server/test_notebooks.py",
    "page": "tests/server/test_page.py",
    "prune": "tests/unit/test_pruning.py",
    "predict": "tests/server/test_predict.py",
    "readme": "tests/unit/test_readme.py",
    "rollback": "tests/server/test_deploy.py",
    "score": "tests/unit/test_score.py",
    "serve": "tests/server/test_server.py",
    "setup": "tests/unit/test_setup.py",
    "status": "tests/unit/test_status.py",
    "stop": "tests/server/test_server.py",
    "test": "would run this test again",
    "test-slow": "is the last command of .ci/run",
    "train": "tests/unit/test_train.py",
    "profile": "tests/unit/test_profile.py",
    "size": "tests/server/test_size.py",
    "tune": "tests/unit/test_tune.py",
    "up": "tests/server/test_up.py",
    "variants": "tests/unit/test_variants.py",
    "verify": "tests/unit/test_verify.py",
    "watch": "tests/server/test_watch.py",
}
# How other commands begin, and the same.
OTHERS = {
    "python -m monitoring.exporter": "tests/unit/test_exporter.py",
    ".venv/bin/python -m monitoring.log": "tests/unit/test_log.py",
    "OMP_NUM_THREADS=1 .venv/bin/torchrun": "tests/unit/test_ranks.py",
    "OMP_NUM_THREADS=8 .venv/bin/torchrun": "needs two machines; tests/unit/test_ranks.py runs the same on one",
    ".venv/bin/ray ": "`ray stop` would end the cluster of another test; tests/unit/test_cluster.py starts its nodes",
    ".venv/bin/uv pip install --require-hashes -r requirements-cluster.txt": "is a command of .ci/run",
    ".venv/bin/uv pip install --require-hashes -r requirements-drift.txt": "is a command of .ci/run",
    ".venv/bin/uv pip install --require-hashes -r requirements-log.txt": "its package is in requirements-drift.txt too",
    ".venv/bin/uv pip install --require-hashes -r requirements-search.txt": "is a command of .ci/run",
    ".venv/bin/uv pip install --require-hashes -r requirements-dvc.txt": "is a command of .ci/run",
    ".venv/bin/uv pip install --require-hashes -r requirements-gateway.txt": "is a command of .ci/run",
    ".venv/bin/uv pip install --require-hashes -r requirements-audit.txt": "is a command of .ci/run",
    ".venv/bin/python -m pipeline.audit": "tests/unit/test_audit.py",
    ".venv/bin/python -m pipeline.model_bom": "tests/unit/test_model_bom.py",
    ".venv/bin/cyclonedx-py environment": "is a command of the Dockerfile; tests/server/test_image.py reads its result",
    ".venv/bin/python -m serving.gateway": "tests/server/test_gateway_process.py",
    ".venv/bin/uv pip install --require-hashes -r requirements-signing.txt": "is a command of .ci/run",
    ".venv/bin/python -m serving.sign": "tests/server/test_signing.py",
    ".venv/bin/python -m serving.bucket": "tests/unit/test_bucket.py",
    ".venv/bin/kubectl ": "needs a cluster; tests/unit/test_kubernetes.py builds and validates the same folders",
    "npm ci --prefix tests/schemas": "is a command of .ci/run",
    ".venv/bin/python -m pipeline.receive": "tests/unit/test_receive.py",
    "git remote add live": "tests/unit/test_receive.py",
    "git push live": "tests/unit/test_receive.py",
    ".venv/bin/dvc remote add": "needs a bucket; tests/unit/test_pipeline.py pushes to a folder",
    ".venv/bin/dvc ": "tests/unit/test_pipeline.py",
    ".venv/bin/python -m synthetic": "tests/unit/test_pipeline.py",
    ".venv/bin/python -m training.rerun": "tests/unit/test_rerun.py",
    "apt-get install prometheus": "is a command of .ci/run",
    "curl ": REQUESTS,
    "echo ": REQUESTS,
    "KEY=": REQUESTS,
    "ANNS_KEY=": "tests/server/test_gateway_process.py",
    "MANAGEMENT=": REQUESTS,
    ". .venv/bin/activate": "tests/server/test_plain_torchserve.py",
    "torchserve --start": "tests/server/test_plain_torchserve.py",
    "torchserve --stop": "would stop the server of another test: it knows one for each user",
    "docker build -f deploy/gcp/training.Dockerfile": "takes 25 GB; tests/unit/test_gcp.py checks what it names",
    "docker push": "needs a registry",
    "gcloud ": "needs a project of Google Cloud; tests/unit/test_gcp.py checks what it names",
    'curl -H "Authorization: Bearer $(gcloud': "needs a service of Cloud Run; tests/server/test_cloud.py asks one",
    "docker compose": "needs a container engine; tests/server/test_compose.py starts the server's words as a process",
    "docker run": "needs a container engine; tests/server/test_container.py runs what the image starts",
    "pip install -e ": "tests/unit/test_install.py",
    ".ci/run": "checks a bare machine; would run this test again",
    ".venv/bin/python -m serving.litserve_server": "tests/server/test_litserve_door.py",
    ".venv/bin/python -m training.crossvalidate": "tests/unit/test_crossvalidate.py",
    ".venv/bin/python -m training.submission": "tests/unit/test_evaluate.py",
}


def commands(page: Path) -> list[str]:
    """Return the commands of a page's shell blocks; a line that continues is one with the next."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\\\n\s*|(?<=\|)\n\s*", " ", "\n".join(blocks))
    return [line.strip() for line in text.splitlines() if line.strip()]


COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]
MADE = [
    (page, match[1], match[2], command)
    for page, command in COMMANDS
    if (match := re.match(r"(?:[A-Z_]+=\S+ )?make ([a-z-]+)(.*?)(?:\s+#.*)?$", command))
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_test_runs_it_or_a_reason_says_why_not(page: str, command: str) -> None:
    made = re.match(r"(?:[A-Z_]+=\S+ )?make ([a-z-]+)", command)
    found = [VERBS[made[1]]] if made else [where for begin, where in OTHERS.items() if command.startswith(begin)]
    assert found, f"{page}: no test runs {command!r}, and no reason says why"
    if found[0].startswith("tests/") and " " not in found[0]:
        assert (ROOT / found[0]).is_file()


def test_nothing_is_named_here_that_no_page_has() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert not [verb for verb in VERBS if not re.search(rf"make {verb}\b", text)]
    assert not [begin for begin in OTHERS if not any(command.startswith(begin) for _, command in COMMANDS)]


@pytest.mark.parametrize(("page", "verb", "rest", "command"), MADE)
def test_make_takes_its_variables(page: str, verb: str, rest: str, command: str) -> None:
    text = (ROOT / "Makefile").read_text()
    for name in re.findall(r"\b([A-Z]+)=", re.sub(r'"[^"]*"', "", rest)):
        assert re.search(rf"^{name} \?=", text, flags=re.MULTILINE), f"{page}: make has no {name}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    dry = ["bash", "-c", command.replace("make ", "make --dry-run -o setup ", 1)]
    done = subprocess.run(dry, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [each[3] for each in MADE if each[1] in ("train", "archive")])
def test_settings_in_commands_are_accepted(command: str) -> None:
    settings = re.findall(r'ARGS="?([^"\n]*)"?', command)
    words = [word for text in settings for word in text.split() if "=" in word]
    if " archive " in command:
        model_config.configure(words)
    else:
        dataset = re.search(r"DATASET=(\S+)", command)
        assert dataset
        compose([f"dataset={dataset[1]}", *words])
