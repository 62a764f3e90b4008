PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

OLD := .venv-torchtext/bin

.PHONY: demo test test-long test-torchtext lint bench clean

demo: .venv/installed  ## Install, then shard and stream three small corpora
	$(BIN)/ecopipe demo

test: .venv/installed-test  ## Install what tests need, and run them
	$(BIN)/pytest -n auto --dist worksteal

test-long: .venv/installed-test  ## The tests that take minutes
	$(BIN)/pytest -m long -n auto --dist worksteal

test-torchtext: .venv-torchtext/installed  ## The same results as the real torchtext, beside the torch that it needs
	$(OLD)/pytest tests/torchtext

lint: .venv/installed-lint  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed  ## ecopipe beside its peers, for hours: DATA is a folder with LibriSpeech and the two archives
	$(BIN)/python -m pip install --disable-pip-version-check -q -r benchmarks/bench/requirements.txt
	$(BIN)/python -m benchmarks.bench $(DATA) --json bench.json --table benchmarks/bench/TABLE.md --chart benchmarks/bench/chart.svg

clean:  ## Remove the environment and the demo
	rm -rf .venv .venv-torchtext shards/demo

.venv/created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
		{ echo "ecopipe needs Python 3.10 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "installing into .venv (PyTorch is large: a few minutes the first time)"
	$(PIP) -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) -e '.[test]'
	@touch $@

.venv/installed-lint: .venv/installed-test
	$(PIP) -e '.[test,lint]'
	@touch $@

.venv-torchtext/installed: pyproject.toml constraints-torchtext.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))" || \
		{ echo "torchtext needs Python 3.10 to 3.12; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	@echo "installing torch 2.3 into .venv-torchtext (5 GB: a few minutes the first time)"
	$(PYTHON) -m venv .venv-torchtext
	$(OLD)/python -m pip install --disable-pip-version-check -q -r constraints-torchtext.txt
	$(OLD)/python -m pip install --disable-pip-version-check -q --no-deps -e .
	@touch $@
