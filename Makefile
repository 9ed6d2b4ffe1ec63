# Two commands do all the set-up: `make repro` and `make test`.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: repro test check bench lock

repro: $(READY)  ## Reproduce the default leaderboards.
	$(RUN) bench check
	$(RUN) dvc repro

test: $(READY)  ## Run all tests, one process on each core.
	$(RUN) OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive MALLOC_MMAP_THRESHOLD_=2097152 pytest --numprocesses auto --dist loadgroup

check: $(READY)  ## Format, lint and types.
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) pyright

bench: $(READY)  ## Measure what the harness costs.
	$(RUN) pytest tests/benchmarks --benchmark-only -o addopts=

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check 'pip>=24' # older ones refuse extras among hashed requirements
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $(READY)

lock:  ## Renew requirements.lock after a change of pyproject.toml (needs uv).
	uv pip compile pyproject.toml --extra report --extra lvlm --group dev --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --output-file requirements.lock
