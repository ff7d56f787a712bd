# Two commands do all the set-up on a fresh machine: `make run` and `make test`. `make` alone lists the others.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUN_READY := $(VENV)/.run-ready
BENCH_READY := $(VENV)/.bench-ready
TEST_READY := $(VENV)/.test-ready
ARGS ?=
CHROMIUM ?= chromium

.DEFAULT_GOAL := help
.PHONY: help setup run run-text sweep penalties settings study results report picture test test-fast test-slurm bench-gpu bench-workers bench-micro check lint format type clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@echo "making a virtual environment in $(VENV)"
	@# Debian's python3 may lack ensurepip; any pip can then install pip into the environment
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) \
	  && $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what runs need (once, about a minute)"
	@$(PIP) --editable .
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt $(RUN_READY)
	@echo "installing what tests need (once)"
	@$(PIP) --editable '.[test]'
	@touch $@

$(BENCH_READY): pyproject.toml constraints.txt $(RUN_READY)
	@echo "installing what micro-benchmarks need (once)"
	@$(PIP) --editable '.[bench]'
	@touch $@

setup: $(RUN_READY)  ## install the project into .venv; then: . .venv/bin/activate

run: $(RUN_READY)  ## the main job, in the embedded world; with more settings: make run ARGS="lora.r=4 seed=1"
	$(BIN)/rlhf run regularizer=js lora.r=8 $(ARGS)

sweep: $(RUN_READY)  ## the ablation over regularizers: 8 forms in 3 worlds, twice each
	$(BIN)/rlhf run -cn regularizers $(ARGS)

run-text: $(RUN_READY)  ## a small instruction model on real prompts and a verifier, without and with a penalty; MODEL=DIR: its weights
	$(BIN)/rlhf run -cn text_verifier hydra/launcher=local $(if $(MODEL),model.path=$(MODEL)) $(ARGS)
	$(BIN)/rlhf report outputs/sweeps/text_verifier --out outputs/report-text
	$(BIN)/rlhf samples --count 3 outputs/sweeps/text_verifier/*regularizer=kl,seed=0* \
	  outputs/sweeps/text_verifier/*regularizer=none,seed=0*

penalties: $(RUN_READY)  ## none, KL and Jensen-Shannon in ten worlds, and docs/figures/penalties.png: the README's first picture
	$(BIN)/rlhf run -cn penalties $(ARGS)
	$(BIN)/rlhf report outputs/sweeps/penalties --out outputs/report-penalties
	cp outputs/report-penalties/figures/win_rate_by_step.png docs/figures/penalties.png

SETTINGS := $(BIN)/rlhf run -cn settings
OTHERS := clamped_kl,bregman,squared_error,js_unbiased,js_exact,forward_kl,full_kl,full_forward_kl,full_js,full_alpha
settings: $(RUN_READY)  ## the grids by which the defaults were chosen, on tuning people; then docs/settings.md
	$(SETTINGS) data.seed=24,25,26,27 regularizer=kl,js regularizer.strength=0.3,0.7,1,1.4,3
	$(SETTINGS) data.seed=24,25,26,27 regularizer=kl,js ppo.lr=0.0005,0.0015,0.002,0.004
	$(SETTINGS) regularizer=$(OTHERS) regularizer.strength=0.3,1,3
	$(SETTINGS) regularizer=js,bregman,squared_error,js_unbiased regularizer.placement=both regularizer.strength=0.3,1,3
	$(SETTINGS) regularizer=js lora=full ppo.lr_full=0.0001,0.0002,0.0004,0.0008
	$(SETTINGS) regularizer=js ppo.steps=20,80
	$(SETTINGS) regularizer=js rollout.batch_size=128
	$(BIN)/python -m studies.settings

study: $(RUN_READY)  ## the study of docs/study-design.md, 14 CPU hours, then docs/results.md anew; a third of it: ARGS="data.seed=range(60,65)"
	$(BIN)/rlhf run -cn study_forms hydra/launcher=local $(ARGS)
	$(BIN)/rlhf run -cn study_lora hydra/launcher=local $(ARGS)
	$(BIN)/rlhf run -cn study_rest hydra/launcher=local $(ARGS)
	$(BIN)/python -m studies outputs/sweeps/study_*

results: $(RUN_READY)  ## docs/results.md and its figures, from the finished runs in outputs/
	$(BIN)/python -m studies $(ARGS)

report: $(RUN_READY)  ## outputs/report/index.html, a local page on the runs in outputs/
	$(BIN)/rlhf report $(ARGS)

picture: report  ## docs/report.png, the top of that page; needs chromium
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync \
	  --disable-component-update --user-data-dir=$$(mktemp -d) --hide-scrollbars --window-size=1440,1500 \
	  --virtual-time-budget=10000 --screenshot=docs/report.png file://$(CURDIR)/outputs/report/index.html

test: $(TEST_READY)  ## all tests but those on a SLURM cluster
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(TEST_READY)  ## the same without the slow ones
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not slurm" $(ARGS)

test-slurm: $(TEST_READY)  ## the tests on a SLURM cluster, which they start here (root on Debian)
	$(BIN)/pytest -m slurm $(ARGS)

bench-gpu: $(RUN_READY)  ## on a GPU, in 13 minutes: correctness, decoding, PPO steps at 7B shape, TRL, runs side by side
	$(BIN)/python -m benchmarks gpu $(ARGS)

bench-workers: $(RUN_READY)  ## CPU seconds a run of a sweep: single commands, one process, hydra/launcher=local
	$(BIN)/python -m benchmarks workers $(ARGS)

bench-micro: $(BENCH_READY)  ## the hot functions, each by itself (pytest-benchmark)
	$(BIN)/pytest -o addopts= benchmarks --benchmark-columns min,median,max,rounds --benchmark-sort name $(ARGS)

check: lint type test  ## lint, type, test: what must pass before a commit lands

lint: $(TEST_READY)  ## ruff: format and lint, without changing a file
	$(BIN)/ruff format --check
	$(BIN)/ruff check

format: $(TEST_READY)  ## ruff: format, and fix what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

type: $(TEST_READY)  ## pyright
	$(BIN)/pyright --project pyproject.toml

clean:  ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
