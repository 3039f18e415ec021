# make demo: the main job on embedded defaults. make test: the tests. Both set .venv up first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# make bench BENCH='throughput scale': those alone.
# make test-long: what takes minutes each: every model overfitted, the recipes on real data.
.PHONY: install demo picture test test-long check bench clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.version.split()[0]} found: give another with PYTHON=...")'
	@echo 'Installing into $(VENV): about 7 GB, some minutes, once'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/shardlens demo

# The README's pictures, of what the networks of the last `make demo` predict.
picture: install
	$(BIN)/shardlens show detector --sample 4 --columns 4 --width 200 --warehouse demo/warehouse --output flows/detector.png
	$(BIN)/shardlens show segmenter --sample 4 --columns 4 --width 200 --warehouse demo/warehouse --output flows/segmenter.png

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-long: install
	$(BIN)/python -m pytest -m long --timeout=3600

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m tests.benchmarks $(BENCH)

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache
