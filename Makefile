# Two commands for a fresh machine with Python >= 3.10: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?= --out runs/demo

.PHONY: demo test install check clean

demo: install
	OMP_NUM_THREADS=1 $(BIN)/libero-reward demo $(DEMO_ARGS)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

install: $(VENV)/.installed

# robosuite and hf-libero require packages that build from source and that the simulator never
# imports, so they are installed without what they ask for; setup.cfg names what is needed.
$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m pip install --quiet --no-deps robosuite==1.4.0 hf-libero==0.1.4
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
