# Two commands are all a newcomer needs: `make demo` and `make test`. Each makes the environment first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SIDKIT_DATA ?= ../shared/data
WORK := .work
REAL := ml_latest_small uci_online_retail xwines_slim
# On whose validation rows settings are chosen.
SEARCHED = synthetic:strong $(REAL:%=$(SIDKIT_DATA)/%)

.PHONY: demo test lint types unit lowest switched real kill-storm fuzz arms tune-arms tune-presets bench-fuxictr online-load proof bench bench-check clean

$(VENV): $(VENV)/.made

$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# From a raw click log to an online score, on a synthetic world.
demo: $(VENV)/.made
	rm -rf demo
	$(BIN)/sidkit run --data synthetic --repo demo --impressions 100000
	$(BIN)/sidkit score --repo demo --user u1 --items i1,i2,i3,i4,i5 --at 2024-03-02T00:00:00Z

test: lint types unit

lint: $(VENV)/.made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.made
	$(BIN)/mypy

unit: $(VENV)/.made
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The lowest versions that pyproject.toml allows, in an environment of their own, and the tests that touch every dependency.
LOWEST := .venv-lowest
LOWEST_TESTS := tests/core/test_config.py tests/core/test_files_and_artifacts.py tests/core/test_plugins.py tests/examples \
  tests/semantic_ids/quantizers/test_quantizers_kinds.py tests/semantic_ids/encoders/test_content_encoder.py \
  tests/semantic_ids/test_codebook.py tests/ranking/models/test_histories.py tests/ranking/training/test_gbdt.py

$(LOWEST)/.made: pyproject.toml constraints.txt tests/helpers/lowest.py
	$(PYTHON) tests/helpers/lowest.py > $(LOWEST).txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST).txt --editable '.[all]' pytest pytest-xdist hypothesis
	@touch $@

lowest: $(LOWEST)/.made
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile $(LOWEST_TESTS)

# All tests with one line of feature_store.yaml switched to Feast's own store, first the offline then the online one; a test
# of what only the kit's own store does is skipped with its reason. TESTS says which test files, by default all.
switched: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m helpers.switched offline -n 2 --dist loadfile $(TESTS)
	PYTHONPATH=tests $(BIN)/python -m helpers.switched online -n 2 --dist loadfile $(TESTS)

# The main job on the three real data sets; SIDKIT_DATA is the folder that holds them.
real: $(VENV)/.made
	@for name in $(REAL); do \
	  if [ -d "$(SIDKIT_DATA)/$$name" ]; then \
	    rm -rf $(WORK)/$$name && $(BIN)/sidkit run --data "$(SIDKIT_DATA)/$$name" --repo $(WORK)/$$name || exit 1; \
	  else echo "SKIPPED $$name: $(SIDKIT_DATA)/$$name is not there; set SIDKIT_DATA"; fi; \
	done

# Every command of a codebook's life is killed at all of its points and at 20 random moments per preset, and codebooks take
# turns while readers ask. Up to an hour.
kill-storm: $(VENV)/.made
	rm -rf $(WORK)/kills $(WORK)/rotation && mkdir -p $(WORK)/kills $(WORK)/rotation
	PYTHONPATH=tests $(BIN)/python tests/system/test_kills.py $(WORK)/kills --all
	PYTHONPATH=tests $(BIN)/python tests/system/test_rotation.py $(WORK)/rotation 10
	PYTHONPATH=tests $(BIN)/python tests/system/kill_storm.py --out benchmarks/results/kill_storm.json

# Malformed arguments, tables, settings and rows, damaged files and kills: 5,060 cases, about 35 minutes on 2 cores. A case is
# repeated alone by `PYTHONPATH=tests .venv/bin/python -m fuzz --only KIND --case N`.
fuzz: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m fuzz --out benchmarks/results/faults.json

# All arms of both papers on six data sets; hours, and it goes on where it was stopped.
arms: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/arms.py --work $(WORK)/arms

# FuxiCTR's DIN beside ours, on the frames that `make arms` leaves; FuxiCTR comes from PyPI into an environment of its own.
bench-fuxictr: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/fuxictr_din.py --work $(WORK)/arms
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/fuxictr_auc.py --work $(WORK)/arms

# Settings of the arms, chosen on validation rows, one data set after the other; `make arms` reads what they were.
tune-arms: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/tune_ranker.py --work $(WORK)/arms --data $(SEARCHED)

# What the presets ship with: one choice for all data sets, on their validation rows.
tune-presets: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/tune_presets.py --work $(WORK)/arms --data $(SEARCHED)

# One writer and eight readers on a packed online store for a minute; a torn row or an error stops it.
online-load: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m helpers.online_load 60

# The laws of the stores, of their oracles and of mined pairs on thousands of random cases, and flipped bits at more places; CI
# runs a part of them.
proof: $(VENV)/.made
	SIDKIT_PROOF=1 $(BIN)/python -m pytest -n 2 tests/stores/offline/test_asof_laws.py tests/stores/offline/test_binary_search.py \
	  tests/stores/offline/test_asof_random.py tests/stores/offline/test_asof_versus_feast.py tests/oracle/test_oracle_worlds.py \
	  tests/semantic_ids/pairs/test_mining.py tests/ranking/data/test_dataset_from_log.py tests/system/test_rot.py tests/ranking/pipeline/test_run.py

# The stores beside their peers, one table; bench-check derives the ratios again from the raw times.
bench: $(VENV)/.made
	$(BIN)/python benchmarks/retrieval.py
	@if [ -f benchmarks/online.py ]; then $(BIN)/python benchmarks/online.py; fi
	$(MAKE) bench-check

bench-check: $(VENV)/.made
	$(BIN)/python benchmarks/check.py

clean:
	rm -rf demo $(WORK) .pytest_cache .mypy_cache .ruff_cache
