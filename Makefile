# Two commands on a fresh machine: `make run` and `make test`. Everything else is here too.
VENV   := .venv
# Any Python that pyproject.toml admits; by default one that is found here.
PYTHON ?= $(shell bash tools/python.sh)
PY     := $(VENV)/bin/python
HOST   ?= 127.0.0.1
PORT   ?= 7860
# More options for pip: an index, a folder of wheels, a certificate. Without an NVIDIA driver the CPU build of PyTorch is
# taken by itself (200 MB in place of several GB).
PIP_OPTIONS ?=
export PIP_OPTIONS

.PHONY: help setup run browser-tools screenshots torch-ends gpu test lint format lock readme bench kills dashboards karpenter image clean

help:  ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.base  ## Make .venv and install the locked dependencies

run: $(VENV)/.ui  ## Serve page and API on http://$(HOST):$(PORT) with the model that ships with the project
	SD_UI=$(or $(SD_UI),true) $(PY) -m service serve --host $(HOST) --port $(PORT)

$(VENV)/bin/python:
	@test -n "$(PYTHON)"  # else tools/python.sh has said what is missing
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the dependencies into $(VENV) (PyTorch is large: this takes some minutes the first time)."
	$(PY) -m pip install --progress-bar on $(PIP_OPTIONS) $$($(PY) tools/torch_index.py) -r requirements.lock
	@touch $@

$(VENV)/.ui: requirements-dev.lock pyproject.toml $(VENV)/.base
	$(PY) -m pip install --progress-bar on $(PIP_OPTIONS) -c requirements-dev.lock $$($(PY) tools/extra.py ui)
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.base
	$(PY) -m pip install --progress-bar on $(PIP_OPTIONS) -r requirements-dev.lock
	@# For comparison in tests alone. Its own requirements (clip, wandb, torchvision …) are not needed for that.
	$(PY) -m pip install --no-deps k-diffusion==0.1.1.post1
	@# W&B's search for sweeps, for the test of one; it asks for an old NumPy and for scikit-learn, and needs neither.
	$(PY) -m pip install --no-deps sweeps==0.3.0 jsonref==1.1.0
	@touch $@

torch-ends:  ## Run the engine's tests with the oldest PyTorch that is admitted and with the newest that there is
	bash tools/torch_ends.sh

gpu: $(VENV)/.dev  ## On a machine with a CUDA GPU: its tests, then bench.gpu (python -m bench.gpu --help)
	$(PY) -m pytest tests/gpu
	$(PY) -m bench.gpu

# axe-core looks at the page for what keeps people out. It is MPL and large: installed, never committed.
build/npm/node_modules/axe-core/axe.min.js:
	npm install --no-save --no-audit --no-fund --prefix build/npm axe-core@4.14.1

browser-tools: build/npm/node_modules/axe-core/axe.min.js  ## What the page's tests need beside Chromium: axe-core, from npm

screenshots: $(VENV)/.dev  ## Take the pictures of the page in docs/page/ (needs Chromium)
	PYTHONPATH=. $(PY) tools/screenshots.py

COVERED := --cov --cov-report= --cov-append
# Percent of lines and branches of service/ below which `make test` fails.
FLOOR := 87

test: $(VENV)/.dev browser-tools  ## Run all tests, and say what they cover
	rm -f .coverage
	$(PY) -m pytest -n 2 --dist loadfile $(COVERED)
	@# One test of a name for each route: xdist would run the first alone.
	$(PY) -m pytest tests/api/test_fuzz.py -k nothing_that_a_client_sends $(COVERED)
	@# The same conversation with a front, its pod behind a proxy that lets one request at a time through.
	SD_TEST_THROUGH=front $(PY) -m pytest -n 2 --dist loadfile tests/api --deselect tests/api/test_fuzz.py $(COVERED)
	$(PY) -m coverage report --fail-under $(FLOOR)

.PHONY: attack sbom
attack: $(VENV)/.dev  ## Attack a running service in every way that tests/attack knows: URL=http://127.0.0.1:7860
	$(PY) -m tests.attack $(or $(URL),http://127.0.0.1:7860) $(ATTACK)

lint: $(VENV)/.dev  ## ruff, mypy --strict, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m dashboards check

format: $(VENV)/.dev  ## Let ruff format the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

sbom: $(VENV)/.base  ## Write build/sbom.cdx.json: the installed packages as a CycloneDX bill of materials
	mkdir -p build
	$(PY) tools/sbom.py > build/sbom.cdx.json

lock: $(VENV)/.dev  ## Resolve the lock files anew
	bash tools/lock.sh

readme: $(VENV)/.base  ## Write the table of settings into docs/settings.md
	$(PY) tools/readme.py

bench: $(VENV)/.dev  ## Measure everything, as ratios within one run: bench/results.json and the table in README.md
	$(PY) -m bench

kills: $(VENV)/.dev  ## Kill a batch thirty times with kill -9 and compare what is resumed
	SD_TEST_KILLS=30 $(PY) -m pytest tests/batch/test_kills.py

mutation: $(VENV)/.dev  ## How many small mistakes the tests would notice in turns, admission and translate (long)
	bash tools/mutation.sh $(PY)

dashboards: $(VENV)/.dev  ## Serve, scrape, load a little, and draw every panel on one sheet
	$(PY) -m dashboards sheet

karpenter:  ## Check Karpenter's manifests against its own schemas (npm; downloads @kubernetes-models/karpenter)
	@mkdir -p build/npm && cp deploy/kuberay/karpenter/validate.mjs build/npm/
	npm install --silent --no-audit --no-fund --prefix build/npm @kubernetes-models/karpenter@2
	$(VENV)/bin/kubectl kustomize deploy/kuberay/karpenter \
	  | $(PY) -c 'import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))' \
	  | node build/npm/validate.mjs

image:  ## Build the image here with buildah, without a Docker daemon, and try it (root; VARIANT=cpu)
	knative/image/build-local.sh $(or $(VARIANT),cpu)

clean:  ## Remove what the other targets made
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
