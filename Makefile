# make demo   pretrain a tiny model and look at what it learnt (AUDIO=/folder: on your own recordings)
# make test   run the tests
# make soak   train for 5,000 updates and see whether memory, open files or shared memory grow
# make fuzz   run mutated inputs through all that reads them; FUZZ_ARGS="audio --first 26000" for others
# make chaos  kill, signal and starve runs, and compare them with undisturbed ones: half an hour
# make dist   build the wheel and the source archive in dist
# make lint   check style, format and types
# make clean  remove what the others made
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test chaos fuzz soak dist lint clean

install: .venv/installed

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: install
	$(BIN)/python -m mae_ast_fairseq.demo $(if $(AUDIO),--audio '$(AUDIO)')

test: install
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

soak: install
	$(BIN)/python -m tests.soak

fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

chaos: install
	$(BIN)/python -m tests.chaos --home outputs/chaos $(CHAOS_ARGS)

dist: install
	$(BIN)/python -m build --no-isolation

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis outputs multirun demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
