# `make train` trains on the embedded data set; `make test` runs every check, `make quick` those that are not slow. All
# install what they need, once.

PYTHON ?= python3
# Test processes of one thread each: with small models two processes use two cores better than two threads do.
# The largest models take about 4 GB, so larger machines get no more processes.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test quick reproduce clean

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

# The published trainings, of data sets in DATA: BUDGET=gpu (default), or cpu, which only tries the commands. ONLY names
# studies or variants. FLAGS are those of reproduce.py, such as --download or --no-verify-checksum.
reproduce: $(VENV)/.installed
	$(BIN)/python reproduce.py $(if $(DATA),--data-path "$(DATA)") --budget $(or $(BUDGET),gpu) $(if $(ONLY),--only $(ONLY)) $(FLAGS)

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are written last, so that an interrupted installation is repeated.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
