# Each target makes its own virtual environment on first use. PYTHON chooses the interpreter for it;
# RUN and OUT choose folders, as in: make export RUN=runs/mine OUT=runs/exported
PYTHON ?= python3
RUN ?= runs/toy
OUT ?= runs/exported
ENV = .venv
PY = $(ENV)/bin/python
# Pin torch to the version that was tested. Every installation names it, so that no other package
# makes pip replace it.
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check torch==2.13.0

help:
	@echo "make install      create .venv, as the other targets do when they need it"
	@echo "make train        run all stages, from raw text on, in RUN (default: runs/toy); resumes"
	@echo "make report       write RUN's report again; make plots: the same with pictures"
	@echo "make export       export RUN in the Hugging Face layout to OUT (default: runs/exported)"
	@echo "make claims       test the claims of Apple's report over six seeds, in runs/claims (hours)"
	@echo "make smoke        run every stage and command on a tiny model, in a minute"
	@echo "make test         run the tests"
	@echo "make test-export  compare an export in transformers and peft, which it installs"
	@echo "make lint         check the style of the code with ruff"
	@echo "make bench        measure training, generation, tokenizer and more on this machine"
	@echo "make clean        remove the virtual environment; runs are kept"

$(ENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(ENV)
	$(INSTALL)
	$(INSTALL) --editable ".[test]"
	@touch $@

install: $(ENV)/installed

train: $(ENV)/installed
	$(PY) train.py --out $(RUN) --resume
	$(PY) sample.py --run $(RUN) --stage lengthening --prompt "The value of"
	$(PY) sample.py --run $(RUN) --prompt "What do the red keys of Ada cost?"

report: $(ENV)/installed
	$(PY) -m afm_min.lab.report --run $(RUN)

plots: $(ENV)/installed
	$(INSTALL) --editable ".[plots]"
	$(PY) -m afm_min.lab.report --run $(RUN)

# Show a run's report and pictures, and the claims with their numbers if there are any, in this
# repository.
results: plots
	cp $(RUN)/report.md .results/toy.md
	cp $(RUN)/staircase.svg $(RUN)/bits.svg $(RUN)/mdloo.svg $(RUN)/losses.svg .results
	if [ -f runs/claims/claims.md ]; then cp runs/claims/claims.* runs/claims/seed*.json .results; fi

export: $(ENV)/installed
	$(INSTALL) --editable ".[export]"
	$(PY) -m afm_min.lab.export --run $(RUN) --out $(OUT)

# The claims of the report, over six seeds: hours. It resumes. In runs/claims there is then a file
# for each seed; "--seeds 0,1" and "--merge" spread the seeds over machines.
claims: $(ENV)/installed
	$(PY) -m afm_min.lab.claims --out runs/claims

smoke: $(ENV)/installed
	rm -rf runs/smoke
	$(PY) train.py --out runs/smoke --preset tiny
	$(PY) sample.py --run runs/smoke --stage core --prompt "The value of" --max-new-tokens 20
	echo "How old is Ada?" | $(PY) sample.py --run runs/smoke --tools age --max-new-tokens 20
	echo "How old is Ada?" | $(PY) sample.py --run runs/smoke --quantized --adapter tools \
		--max-new-tokens 20

# One thread for each process: for models as tiny as the tests', a second thread hardly helps, and
# on a busy machine it slows the tests down.
test: $(ENV)/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests

test-export: $(ENV)/installed
	$(INSTALL) "transformers>=4.57" "peft>=0.17" --editable ".[export]"
	$(PY) -m pytest -q tests/test_export.py

lint: $(ENV)/installed
	$(INSTALL) --editable ".[lint]"
	$(ENV)/bin/ruff check .

bench: $(ENV)/installed
	$(PY) -m tests.bench

clean:
	rm -rf $(ENV) *.egg-info

.PHONY: help install train report plots results export claims smoke test test-export lint bench clean
