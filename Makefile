# Each target makes its own virtual environment on first use. PYTHON chooses the interpreter for it.
PYTHON ?= python3
ENV = .venv
RUN = $(ENV)/bin/python
# torch is the tested build, and as it is always named, pip keeps it. On a machine without a GPU,
# pip finds its CPU wheel.
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0

help:
	@echo "make train        all stages, from text on, into runs/toy; called again, it goes on"
	@echo "make test         the test suite"
	@echo "make test-export  whether transformers and peft compute the same from an export;"
	@echo "                  installs them"
	@echo "make smoke        every stage and both commands on a tiny model, in a few minutes"
	@echo "make claims       what Apple's report claims, as experiments over several seeds, into"
	@echo "                  runs/claims/report.md"
	@echo "make plots        report of runs/toy anew, with pictures; installs matplotlib"
	@echo "make bench        speed of training, generation, tokenizer and more on this machine"
	@echo "make clean        remove the virtual environment; runs are kept"

$(ENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(ENV)
	$(INSTALL)
	$(INSTALL) --editable ".[test]"
	@touch $@

train: $(ENV)/installed
	$(RUN) train.py --out runs/toy --resume
	$(RUN) sample.py --run runs/toy --stage lengthening --prompt "The value of"
	$(RUN) sample.py --run runs/toy --tools price,weather,python \
		--prompt "What do the red coins and the white coins cost together?"

# One thread for each process: for models as tiny as the tests', a second one is hardly faster, and on
# a busy machine several times slower.
test: $(ENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q tests

test-export: $(ENV)/installed
	$(INSTALL) "transformers>=4.57" "peft>=0.17" --editable ".[export]"
	$(RUN) -m pytest -q tests/test_export.py

SMOKE = data.share=0.2 $(foreach stage,parent prune core continued lengthening draft sft,$(stage).steps=10) \
	demonstrations.count=30 demonstrations.evolved=3 synthetic.math=4 synthetic.samples=2 \
	synthetic.code_questions=4 synthetic.tool_questions=4 mixture.rounds=1 mixture.steps=1 \
	mixture.count=4 mixture.seeds=1 sft.checkpoints=1 sft.count=2 \
	$(foreach round,1 2, \
	$(foreach stage,reward rs dpo ipo committee,$(stage)$(round).steps=2) \
	$(foreach stage,rs dpo ipo mdloo committee,$(stage)$(round).count=2) \
	$(foreach stage,preferences rs committee,$(stage)$(round).prompts=20) \
	reward$(round).held_out=2 mdloo$(round).prompts=2 mdloo$(round).iterations=2) \
	quantize.calibration=8 quantize.count=2 recovery.prompts=20 evaluation.count=4 \
	$(foreach stage,recovery math tools summary,$(stage).steps=5 $(stage).count=2) \
	$(foreach stage,math tools summary,$(stage).examples=20)
smoke: $(ENV)/installed
	rm -rf runs/smoke
	$(RUN) train.py --out runs/smoke --preset tiny $(foreach setting,$(SMOKE),--set $(setting))
	$(RUN) sample.py --run runs/smoke --stage core --prompt "The value of" --max-new-tokens 20
	echo "How old is Ada?" | $(RUN) sample.py --run runs/smoke --tools age --max-new-tokens 20
	echo "How old is Ada?" | $(RUN) sample.py --run runs/smoke --quantized --adapter tools \
		--max-new-tokens 20

# The parent learns longer here: it teaches, and must be better than what it teaches becomes.
# So does lengthening: to see what training adds to a raised base. And more problems judge.
CLAIMS = parent.steps=1000 lengthening.steps=400 sft.count=200 \
	$(foreach stage,quantize recovery math tools summary,$(stage).count=400) \
	$(foreach round,1 2,$(foreach stage,rs dpo ipo mdloo committee,$(stage)$(round).count=400))
claims: $(ENV)/installed
	$(RUN) train.py --out runs/claims --resume --stages data,tokenizer,parent \
		$(foreach setting,$(CLAIMS),--set $(setting))
	$(RUN) -m afm_min claims --run runs/claims

plots: $(ENV)/installed
	$(INSTALL) --editable ".[plots]"
	$(RUN) -m afm_min report --run runs/toy

bench: $(ENV)/installed
	$(RUN) -m tests.bench

clean:
	rm -rf $(ENV) *.egg-info

.PHONY: help train test test-export smoke claims plots bench clean
