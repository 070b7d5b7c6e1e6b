# `make train` trains on the embedded data set; `make test` runs every check, `make quick` those that are not slow. All set
# up what they need, once.

PYTHON ?= python3
# Test processes, of one thread each: small models keep two threads less busy than two processes. The largest models
# take some 4 GB, so there are not more of them on larger machines.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test quick clean

train: $(VENV)/.installed
	$(BIN)/python main.py --dataset digits --model resnet20 --batch-size 32 --lr 0.05 --warmup-epochs 3 --label-smoothing 0.1 --epochs 25 --run-name digits --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

quick: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not slow"

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are written last, so an installation that was interrupted is repeated.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
