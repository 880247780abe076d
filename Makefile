# Everything a newcomer needs: `make demo` and `make test` set up what they use by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-

.PHONY: help demo test lint docs chaos learning bench clean

help:
	@echo "make demo      train PPO on CartPole-v1, evaluate it, and leave a curve, a video and a report"
	@echo "make test      install what the tests need and run them (minutes)"
	@echo "make lint      style and types"
	@echo "make docs      build the documentation into site/"
	@echo "make chaos     kill training runs and resume them (CHAOS=1000 for more kills)"
	@echo "make learning  train many seeds against published figures (hours)"
	@echo "make bench     measure speed beside other libraries"

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Bellgrad needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: its plain name could bring gigabytes of CUDA libraries to a machine without a GPU.
$(STAMP)%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(STAMP)video
	$(BIN)/python examples/demo.py

test: $(STAMP)dev
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(STAMP)dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)docs
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

chaos: $(STAMP)dev
	$(BIN)/python tests/chaos.py --kills $${CHAOS:-20}

learning: $(STAMP)dev $(STAMP)mujoco
	$(BIN)/python benchmarks/learning.py

bench: $(STAMP)dev
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/tabular.py

clean:
	rm -rf site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
