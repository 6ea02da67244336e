# Every verb is a line or two: what it does stands in the module that it calls.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
DATASET ?= fingers
NAME ?=
NAMES ?=
NETWORKS ?=
P99 ?=
VERSION ?=
RAW ?=
IMAGE ?=
LABELS ?=
PORT ?=
EXCLUDE ?=
ARGS ?=
FORMAT ?=
AUGMENT ?= 0
MINUTES ?= 8
TRIALS ?= 24
STAGES ?= 2
OFFLINE ?=
UI ?=
KEEP ?=
REPLAY ?=
AGREEMENT ?=
SHADOW ?=
CANARY ?=
ROLLBACK ?=
CLUSTER ?=
FLEET ?=
CPU ?=
DEVICE ?= gpu
BENCH ?= serving
# Recipes read these from the environment: text that is pasted into a shell's command could be run. `value` is the text
# as it was typed, a `$` included. ARGS is the rest of the command line, for the shell to split.
export SIGHTLINE_DATASET = $(value DATASET)
export SIGHTLINE_NAME = $(value NAME)
export SIGHTLINE_NAMES = $(value NAMES)
export SIGHTLINE_P99 = $(value P99)
export SIGHTLINE_NETWORKS = $(value NETWORKS)
export SIGHTLINE_MODEL = $(or $(value NAME),$(value DATASET))
export SIGHTLINE_VERSION = $(value VERSION)
export SIGHTLINE_RAW = $(value RAW)
export SIGHTLINE_IMAGE = $(value IMAGE)
export SIGHTLINE_LABELS = $(value LABELS)
export SIGHTLINE_PORT = $(value PORT)
export SIGHTLINE_EXCLUDE = $(value EXCLUDE)
export SIGHTLINE_FORMAT = $(value FORMAT)
export SIGHTLINE_AUGMENT = $(value AUGMENT)
export SIGHTLINE_MINUTES = $(value MINUTES)
export SIGHTLINE_TRIALS = $(value TRIALS)
export SIGHTLINE_STAGES = $(value STAGES)
export SIGHTLINE_DEVICE = $(value DEVICE)
export SIGHTLINE_BENCH = $(value BENCH)
export SIGHTLINE_REPLAY = $(value REPLAY)
export SIGHTLINE_AGREEMENT = $(value AGREEMENT)
export SIGHTLINE_SHADOW = $(value SHADOW)
export SIGHTLINE_CANARY = $(value CANARY)
export SIGHTLINE_CLUSTER = $(value CLUSTER)
export SIGHTLINE_FLEET = $(value FLEET)
export SIGHTLINE_PYTHON = $(value PYTHON)
# make hands variables of its command line to every recipe, and would run a $(shell ...) in one for that.
unexport DATASET NAME NAMES NETWORKS P99 VERSION RAW IMAGE LABELS PORT EXCLUDE FORMAT AUGMENT MINUTES TRIALS STAGES DEVICE BENCH PYTHON REPLAY AGREEMENT SHADOW CANARY CLUSTER FLEET
# A command would take it for an option: of NAME=--help it would show its help, and succeed.
$(foreach each,DATASET NAME NAMES NETWORKS P99 VERSION RAW IMAGE LABELS PORT EXCLUDE FORMAT REPLAY AGREEMENT SHADOW CANARY CLUSTER FLEET,$(if $(filter -%,$(firstword $(value $(each)))),$(error error: \
  $(each)=$(value $(each)) begins with "-": name something else, or a path as ./$(value $(each)))))
builds = $(if $(CPU),--builds $(if $(filter 0 no,$(CPU)),full,cpu))
need = $(if $(strip $(value $(1))),,$(error error: $(1) is missing: make $@ $(2)))
# Of verbs that read a run or an archive: the name of somebody else's would be a surprise.
named = $(if $(strip $(value NAME))$(filter-out file,$(origin DATASET)),,$(error error: NAME is missing: make $@ NAME=<model>))
inspected = $(if $(strip $(value RAW)$(value NAME))$(filter-out file,$(origin DATASET)),,$(error error: RAW is missing: make $@ RAW=<folder of class folders> NAME=<name>))
trials = $(if $(filter-out 0 no,$(value REPLAY)),--replay="$$SIGHTLINE_REPLAY") $(if $(value AGREEMENT),--agreement="$$SIGHTLINE_AGREEMENT") \
  $(if $(filter-out 0 no,$(value SHADOW)),--shadow="$$SIGHTLINE_SHADOW") $(if $(filter-out 0 no,$(value CANARY)),--canary="$$SIGHTLINE_CANARY")
deploy = $(if $(value FLEET),serving.fleet.deploy "$$SIGHTLINE_FLEET",serving.deploy)
exclude = $(if $(value EXCLUDE),--exclude="$$SIGHTLINE_EXCLUDE")
py := .venv/bin/python

.PHONY: help setup demo inspect up data train tune prune evaluate compare variants profile archive verify size serve stop status predict score deploy rollback watch monitor feedback drift page load bench gpu-report readme notebooks docs check test test-slow clean lock image

help: ## list the verbs
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  %-10s %s\n", $$1, $$2}'

setup: ## make .venv from the locks (CPU=1: small CPU-only builds, CPU=0: back; PYTHON=: which Python)
	@command -v "$$SIGHTLINE_PYTHON" >/dev/null || { echo "error: no $$SIGHTLINE_PYTHON on PATH. Install Python 3.11 or 3.12" >&2; exit 1; }
	@"$$SIGHTLINE_PYTHON" pipeline/setup.py $(builds)

demo: setup ## from nothing to a served prediction: draw, prepare, train, evaluate, archive, serve, ask
	@$(py) -m pipeline.demo

inspect: setup ## look for wrong labels, copies and poor images before training: RAW=<folder of class folders> NAME=, or DATASET= (EXCLUDE=, ARGS=)
	@$(inspected)$(py) -m pipeline.inspect $(if $(filter-out file,$(origin DATASET)),--dataset="$$SIGHTLINE_DATASET") --raw="$$SIGHTLINE_RAW" --name="$$SIGHTLINE_NAME" $(exclude) $(ARGS)

up: setup ## your own images to a served model: RAW=<folder of class folders> NAME=<name> (MINUTES= of fine-tuning, STAGES=1: none, EXCLUDE=, ARGS=)
	@$(call need,RAW,RAW=<folder of class folders> NAME=<name>)$(py) -m pipeline.up "$$SIGHTLINE_RAW" "$$SIGHTLINE_NAME" --minutes="$$SIGHTLINE_MINUTES" --stages="$$SIGHTLINE_STAGES" $(exclude) $(ARGS)

data: setup ## get and prepare images: DATASET= RAW=<folder> (RAW=generated: drawn, RAW empty: downloaded) NAME= AUGMENT=n EXCLUDE=<csv of images to leave out> (CLUSTER=local or <host:port>: on a Ray cluster)
	@$(py) -m pipeline.data "$$SIGHTLINE_DATASET" --raw="$$SIGHTLINE_RAW" --name="$$SIGHTLINE_MODEL" $(exclude) augment="$$SIGHTLINE_AUGMENT" $(if $(value CLUSTER),cluster="$$SIGHTLINE_CLUSTER") $(ARGS)

train: setup ## train on prepared images: DATASET= NAME= ARGS="network=resnet50 trainer.epochs=20" (CLUSTER=local or <host:port>: on a Ray cluster)
	@$(py) -m $(if $(value CLUSTER),training.cluster_training "$$SIGHTLINE_CLUSTER",training.train) dataset="$$SIGHTLINE_DATASET" name="$$SIGHTLINE_MODEL" $(ARGS)

tune: setup ## search for better settings of training: DATASET= NAME= TRIALS= (MINUTES= of each trial, CLUSTER=local or <host:port>: on a Ray cluster, ARGS="network=resnet18 --processes 2")
	@$(py) -m training.tune dataset="$$SIGHTLINE_DATASET" store="$$SIGHTLINE_MODEL" --name="$$SIGHTLINE_MODEL-search" --trials="$$SIGHTLINE_TRIALS" $(if $(filter-out file,$(origin MINUTES)),--minutes="$$SIGHTLINE_MINUTES") $(if $(value CLUSTER),--cluster="$$SIGHTLINE_CLUSTER") $(ARGS)

prune: setup ## a smaller network from a run's, fine-tuned, as the run <name>-pruned: NAME= (ARGS="--channels 0.3 --name <run> trainer.epochs=60")
	@$(named)$(py) -m training.prune "$$SIGHTLINE_MODEL" $(ARGS)

evaluate: setup ## score a run on its test images, with pictures and report.html: NAME= (ARGS=report=full: with robustness and speed, in minutes)
	@$(named)$(py) -m training.evaluate name="$$SIGHTLINE_MODEL" $(ARGS)

compare: setup ## put evaluated runs side by side, with paired tests on the same test images: NAMES="a b" (ARGS=--json)
	@$(call need,NAMES,NAMES="a b")$(py) -m training.report.compare "$$SIGHTLINE_NAMES" $(ARGS)

profile: setup ## where the time of training and inference goes, as a page: DATASET= NAME= NETWORKS="resnet18 vgg16" (ARGS=--no-compile)
	@$(py) -m training.profile dataset="$$SIGHTLINE_DATASET" store="$$SIGHTLINE_MODEL" --name="$$SIGHTLINE_MODEL-profile" $(if $(value NETWORKS),--networks="$$SIGHTLINE_NETWORKS") $(ARGS)

variants: setup ## a run beside its int8 form and the runs that were pruned from it or that it taught: accuracy, size, speed: NAME= (ARGS=--json)
	@$(named)$(py) -m training.report.variants "$$SIGHTLINE_MODEL" $(ARGS)

archive: setup ## build model_store/<name>-<version>.mar: NAME= VERSION= (FORMAT=pt2: compiled for this processor, ARGS="--prune 3": keep the newest 3, and what is live)
	@$(call need,VERSION,NAME=<model> VERSION=1.0)$(named)$(if $(value FORMAT),$(py) -m training.export name="$$($(py) -m serving.store.fine_tuning "$$SIGHTLINE_MODEL")" format="$$SIGHTLINE_FORMAT" && )\
	$(py) -m serving.archive "$$SIGHTLINE_MODEL" "$$SIGHTLINE_VERSION" $(if $(value FORMAT),--format "$$SIGHTLINE_FORMAT") $(ARGS)

verify: setup ## check an archive (hash, structure, provenance) and rehearse it as a worker: NAME= (VERSION=, else the newest)
	@$(named)$(py) -m serving.verify "$$SIGHTLINE_MODEL" "$$SIGHTLINE_VERSION" $(ARGS)

size: setup ## find the settings that serve a model best under a latency goal, and archive it with them: NAME= P99=50ms (IMAGE=<folder of images to send>)
	@$(call need,P99,NAME=<model> P99=50ms)$(named)$(py) -m benchmarks.size "$$SIGHTLINE_MODEL" --p99="$$SIGHTLINE_P99" $(if $(value IMAGE),--images="$$SIGHTLINE_IMAGE") $(ARGS)

serve: setup ## start TorchServe with what was live, and the newest version of every other model (ARGS="fingers petals=1.0": with these)
	@$(py) -m serving.server start $(ARGS)

stop: setup ## stop the server that was started here
	@$(py) -m serving.server stop

status: setup ## show the server and what it serves (FLEET=: all nodes that follow this address)
	@$(py) -m $(if $(value FLEET),serving.fleet.status "$$SIGHTLINE_FLEET",serving.status) $(ARGS)

predict: setup ## labels and probabilities: NAME= IMAGE=<image or folder> (OFFLINE=1: without a server)
	@$(call need,IMAGE,NAME=<model> IMAGE=<image or folder>)$(named)$(py) -m serving.predict "$$SIGHTLINE_MODEL" "$$SIGHTLINE_IMAGE" $(if $(OFFLINE),--offline) $(ARGS)

score: setup ## classify any number of images without a server, into a table: NAME= RAW=<folder, list, tar shard or bucket> (VERSION=, CLUSTER=local or <host:port>: on a Ray cluster, ARGS="--out <folder>")
	@$(call need,RAW,NAME=<model> RAW=<folder of images>)$(named)$(py) -m pipeline.score "$$SIGHTLINE_MODEL" "$$SIGHTLINE_RAW" $(if $(value VERSION),--version "$$SIGHTLINE_VERSION") $(if $(value CLUSTER),--cluster "$$SIGHTLINE_CLUSTER") $(ARGS)

deploy: setup ## swap versions with nothing lost: NAME= VERSION= (empty: the newest; KEEP=0: remove the one before; REPLAY=1, SHADOW=0.1, CANARY=0.1: only if it passes on logged requests, on copies of live ones, on live ones; AGREEMENT=0.95; FLEET=: on all nodes that follow this address)
	@$(call need,NAME,NAME=<model> VERSION=<version>)$(py) -m $(deploy) "$$SIGHTLINE_NAME" $(if $(value VERSION),"$$SIGHTLINE_VERSION") $(if $(filter 0 no,$(KEEP)),--no-keep) $(trials) $(ARGS)

rollback: setup ## back to the version before: NAME= (FLEET=: on all nodes)
	@$(call need,NAME,NAME=<model>)$(py) -m $(deploy) "$$SIGHTLINE_NAME" --rollback

watch: setup ## repair what dies or hangs, and say so, until Ctrl-C (ROLLBACK=1: also roll back a new version whose alarm fires; FLEET=: serve what all nodes should that follow this address)
	@$(py) -m serving.watch $(if $(filter-out 0 no,$(ROLLBACK)),--rollback) $(if $(value FLEET),--fleet="$$SIGHTLINE_FLEET") $(ARGS)

monitor: setup ## start Prometheus and Alertmanager for the server that runs here, until Ctrl-C
	@$(py) -m monitoring.monitor $(ARGS)

feedback: setup ## accuracy of the served versions from labels that came later: NAME= LABELS=<csv> (ARGS="--export <folder>": labelled images for make up)
	@$(call need,LABELS,NAME=<model> LABELS=<csv with request_id and label>)$(named)$(py) -m monitoring.feedback "$$SIGHTLINE_MODEL" "$$SIGHTLINE_LABELS" $(ARGS)

drift: setup ## report on drift, one page: NAME= RAW=<log or folder of images> (empty: the log of the served model; VERSION=)
	@$(named)$(py) -m pipeline.drift "$$SIGHTLINE_MODEL" --raw="$$SIGHTLINE_RAW" --version="$$SIGHTLINE_VERSION" $(ARGS)

page: setup ## look at the served models in a browser, until Ctrl-C: images, heat maps, corrections, drift (NAME=, PORT=)
	@$(py) -m monitoring.page --name="$$SIGHTLINE_NAME" $(if $(value PORT),--port="$$SIGHTLINE_PORT")

load: setup ## load the running server with locust (ARGS="--requests 100000 --swap NAME=1.0,2.0"; UI=1: locust's own page)
	@$(py) -m tests.load.run $(if $(filter-out 0 no,$(UI)),--ui) $(ARGS)

bench: setup ## measure serving against its peers (ARGS=--quick: in minutes; BENCH="sweep worker": other benchmarks)
	@for each in $$SIGHTLINE_BENCH; do $(py) -m "benchmarks.$$each" $(ARGS) || exit 1; done

gpu-report: setup ## measure this machine's GPU, unattended, in 8 minutes (ARGS=--rehearse: on the CPU)
	@$(py) -m benchmarks.gpu_report $(ARGS)

readme: setup ## write the tables of README.md and docs/ from the results of benchmarks
	@$(py) -m benchmarks.readme $(ARGS)

notebooks: setup ## execute docs/notebooks on drawn images, for the site: NAME= (empty: all)
	@$(py) -m pipeline.notebooks $(if $(value NAME),"$$SIGHTLINE_NAME") $(ARGS)

docs: setup ## build the pages of docs/ as a site in docs/_build, and run their examples
	@$(py) -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@$(py) -m sphinx -W --keep-going --quiet -b doctest docs docs/_build/doctest

check: setup ## lint, format and types
	@$(py) -m ruff check . && $(py) -m ruff format --check . && $(py) -m mypy

test: setup ## the test suite, unit tests side by side (ARGS=--cov: with branch coverage; "--device cuda": on a GPU)
	@$(py) -m pytest -n 2 --no-loadscope-reorder $(ARGS)

test-slow: setup ## the tests that take minutes or gigabytes
	@$(py) -m pytest -m slow --timeout 1800 -n 2 --no-loadscope-reorder $(ARGS)

image: setup ## build the server's container image with buildah, podman or docker: DEVICE=gpu|cpu
	@$(py) -m pipeline.image --device "$$SIGHTLINE_DEVICE" $(ARGS)

lock: setup ## resolve pyproject.toml anew into the requirements files
	@$(py) -m pipeline.lock

clean: ## remove caches and what tests left behind; data, runs and archives stay
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.* htmlcov outputs docs/_build
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
