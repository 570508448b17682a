# make help lists the commands. Everything they need is set up on first use,
# in .venv, by book/_tools/setup.py; a second run skips what is done.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PY     := $(BIN)/python
SETUP  := $(PYTHON) book/_tools/setup.py
PAGE   := _build/html/index.html

export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_NUM_THREADS := 1

.PHONY: help book test page modes lab notebooks bench clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@echo "A Field Guide to Generative AI. The commands:"
	@sed -n 's/^\([a-z]*\):.*##/  make \1:/p' Makefile | tr ':' '\t' | expand -t 18
	@echo "Each sets up what it needs first; PYTHON=python3.12 names another Python."

book:  ## build the site into _build/html, from the stored outputs
	@$(SETUP) venv torch book weights web
	$(PY) book/_tools/build.py
	@echo "The site is built: open $(PAGE) in a browser; it needs no server."

test:  ## run every check; of some notebooks with ONLY=chapter/notebook
	@$(SETUP) venv torch book weights web tests browser
ifdef ONLY
	PYTHONPATH=book/_tools $(PY) tests/only.py $(ONLY)
else
	$(PY) -m pytest -n 2 --dist worksteal tests
	$(PY) -m pytest --nbval -n 2 --dist loadfile book
endif

modes:  ## run the notebooks and their tests as other processors would
	@$(SETUP) venv torch book weights tests
	$(PY) book/_tools/cpu_modes.py $(ONLY)

lab:  ## open the notebooks in JupyterLab
	@$(SETUP) venv torch book weights
	JUPYTER_CONFIG_PATH=book/_tools $(BIN)/jupyter lab --notebook-dir=book

notebooks:  ## export, run the notebooks that changed, store what they print
	@$(SETUP) venv torch book weights tests browser
	$(PY) book/_tools/notebooks.py $(if $(FORCE),--force) $(if $(STILLS),--stills) $(ONLY)

page:  ## begin a page: NAME=chapter/name
	@$(PYTHON) book/_tools/page.py $(NAME)

bench:  ## measure the book against its rivals, in one run
	@$(SETUP) venv torch book weights web tests browser
	-@$(SETUP) bench
	-@$(SETUP) rivals
	-@$(SETUP) engine
	$(PY) book/_tools/bench.py $(ROWS) $(if $(JSON),--json $(JSON))

clean:  ## remove what was built; `make clean ALL=1` removes .venv too
	rm -rf _build .pytest_cache .ruff_cache $(if $(ALL),.venv)
