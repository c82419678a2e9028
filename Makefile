# Start with `make demo` and `make test`. Each creates the environment first.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SIDKIT_DATA ?= ../shared/data
WORK := .work
REAL := ml_latest_small uci_online_retail xwines_slim
# Data sets whose validation rows are used for tuning.
SEARCHED = synthetic:strong $(REAL:%=$(SIDKIT_DATA)/%)

.PHONY: demo test docs lint types unit lowest switched real kill-storm fuzz coverage attributes codebook-windows behaviour-codes mechanisms bytes-per-item arms arms-today tune-arms tune-peers tune-presets tune-boosting bench-fuxictr online-load proof bench bench-check audits codes gates deploy bench-onnx serve-faults events-latency test-services bench-redis parity codebook-costs stage-costs large-log tick-costs tune-arms-today adapters modalities family planted attention all-arms table-budget clean

$(VENV): $(VENV)/.made

# The pip that Python brings takes four times the time to resolve; modules are compiled when they are imported, not all 23,000.
$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

# From a raw click log to an online score, on a synthetic world. The second run reuses every stage and prints the result.
# Its test window is the last 30 % of the log instead of 10 %: cold rows then have enough positives for a verdict.
DEMO := --data synthetic:clustered --repo demo --impressions 100000 --seeds 2

demo: $(VENV)/.made
	rm -rf demo
	$(BIN)/sidkit init demo --data synthetic:clustered
	sed -i.default 's/^train = 0.8 /train = 0.6 /' demo/sidkit.toml
	rm demo/sidkit.toml.default
	$(BIN)/sidkit run $(DEMO) --json > /dev/null
	$(BIN)/sidkit score --repo demo --user u1 --items i1,i2,i3,i4,i5 --at 2024-03-02T00:00:00Z
	$(BIN)/sidkit run $(DEMO) --quiet

# The types are checked beside the tests: mypy uses one core.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 types unit

# The documentation in .work/docs; a warning, a broken link and a request to another host are errors. `mkdocs serve` shows it.
docs: $(VENV)/.made
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open $(WORK)/docs/index.html"

lint: $(VENV)/.made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.made
	$(BIN)/mypy

# Kills of commands on servers take a minute and a half: `make test-services` has them. Tests wait for processes that they start, so there is
# one worker more than cores.
unit: $(VENV)/.made
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/system/test_production_kills.py

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

# All tests with Feast's own offline store, then with its own online store, in feature_store.yaml; tests of features that only
# sidkit's stores have are skipped with a reason. TESTS selects test files, by default all.
switched: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m helpers.switched offline -n 2 --dist loadfile $(TESTS)
	PYTHONPATH=tests $(BIN)/python -m helpers.switched online -n 2 --dist loadfile $(TESTS)

# Tests on servers that they start, Redis, Postgres and S3 (moto), of Spark and of Dagster: the extras SERVICES, Debian's redis-server
# and postgresql, and Java 17. What is missing is skipped with the reason.
SERVICES := spark,s3,dagster

test-services: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,$(SERVICES)]' 'moto[server]>=5'
	$(BIN)/python -m pytest tests/services tests/stores/online tests/semantic_ids/test_catalog.py tests/semantic_ids/test_catalog_postgres.py \
	  tests/system/test_production_kills.py

# The profiles spark and production compared with local, cell by cell; resumable. Needs what `make test-services` needs, and takes hours
# on all rows: USERS keeps the events of that many users of a data set.
USERS ?= 0
PROFILES ?= spark production
PARITY ?= $(REAL:%=$(SIDKIT_DATA)/%) synthetic:strong

parity: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,$(SERVICES)]'
	PYTHONPATH=tests $(BIN)/python benchmarks/parity.py --work $(WORK)/parity --users $(USERS) --profiles $(PROFILES) --data $(PARITY)

# `sidkit run` on the three real data sets; SIDKIT_DATA is their folder.
real: $(VENV)/.made
	@for name in $(REAL); do \
	  if [ -d "$(SIDKIT_DATA)/$$name" ]; then \
	    rm -rf $(WORK)/$$name && $(BIN)/sidkit run --data "$(SIDKIT_DATA)/$$name" --repo $(WORK)/$$name || exit 1; \
	  else echo "SKIPPED $$name: $(SIDKIT_DATA)/$$name does not exist; set SIDKIT_DATA"; fi; \
	done

# Kills every life-cycle command at each persistent change and at 20 random times per preset, and rotates codebooks next to
# readers. Up to an hour. PROFILE=production does it on a Postgres and a Redis that it starts, without the rotation; it takes longer.
PROFILE ?= local
OF_PROFILE := $(if $(filter local,$(PROFILE)),,_$(PROFILE))

kill-storm: $(VENV)/.made
	rm -rf $(WORK)/kills $(WORK)/rotation && mkdir -p $(WORK)/kills $(WORK)/rotation
	PYTHONPATH=tests $(BIN)/python tests/system/kill_campaign.py $(WORK)/kills --all --profile $(PROFILE) \
	  --out benchmarks/results/kill_points$(OF_PROFILE).json
	$(if $(OF_PROFILE),,PYTHONPATH=tests $(BIN)/python tests/system/test_rotation.py $(WORK)/rotation 10)
	PYTHONPATH=tests $(BIN)/python tests/system/kill_storm.py --profile $(PROFILE) --out benchmarks/results/kill_storm$(OF_PROFILE).json

# Malformed arguments, tables, settings and rows, damaged files and kills: 5,060 cases. An interrupted run resumes at the same
# commit. Repeat a single case with `PYTHONPATH=tests .venv/bin/python -m fuzz --only KIND --case N`.
fuzz: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m fuzz --parts $(WORK)/fuzz --out benchmarks/results/faults.json

# The service while workers are killed, with a full disk, and under 100,000 malformed requests; about 20 minutes.
serve-faults: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m helpers.serve_faults --out benchmarks/results/serve_faults.json

# Coverage of the intervals, simulated on the predictions of real arms; about an hour on 2 cores.
coverage: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/coverage.py --work $(WORK)/coverage

# All arms of both papers on six data sets; takes hours and is resumable.
arms: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/arms.py --work $(WORK)/arms

# FuxiCTR's DIN, DCNv2 and FinalMLP compared with ours on the frames of `make arms`; FuxiCTR is installed from PyPI into its own environment.
bench-fuxictr: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/fuxictr_din.py --work $(WORK)/arms
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/fuxictr_auc.py --work $(WORK)/arms

# The arms of both papers with the default settings on samples, and which of their parts act; resumable.
arms-today: $(VENV)/.made
	$(BIN)/python benchmarks/arms_today.py --work $(WORK)/arms_today --data $(REAL:%=$(SIDKIT_DATA)/%) synthetic:strong synthetic:clustered

# Tunes the arms with as many trials as boosting, on the frames of `make arms-today`; runs the missing trials.
tune-arms-today: $(VENV)/.made
	$(BIN)/python benchmarks/tune_ranker.py --work $(WORK)/arms_today --impressions 100000 --max-train-rows 10000 --max-evaluation-rows 10000 \
	  --sampled --trials 11 --jobs 1 --data $(SEARCHED)

# Tunes FuxiCTR's models, and both libraries of boosting, on the same samples of the validation rows; runs the missing trials.
# A data set takes about 12 minutes on a quiet core, 8 of them for DIN: PEERS and SEARCHED select fewer.
SAMPLED := --work $(WORK)/peers --impressions 100000 --rows 20000
PEERS := fuxictr_dcnv2 fuxictr_finalmlp fuxictr_din fuxictr_din_content
tune-peers: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/fuxictr_auc.py --data $(SEARCHED) $(SAMPLED) --tune-only --peers $(PEERS)
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/tune_boosting.py --data $(SEARCHED) $(SAMPLED) --beside

# Tunes the arms on validation rows, one data set after the other; `make arms` reads the result.
tune-arms: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/tune_ranker.py --work $(WORK)/arms --data $(SEARCHED)

# Tunes the presets' defaults: one choice for all data sets, on their validation rows.
tune-presets: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/tune_presets.py --work $(WORK)/arms --data $(SEARCHED)

# Tunes gradient boosting, on the validation rows of each data set; `make arms` reads the result.
tune-boosting: $(VENV)/.made
	SIDKIT_DATA="$(SIDKIT_DATA)" $(BIN)/python benchmarks/tune_boosting.py --work $(WORK)/arms --data $(SEARCHED)

# Shares of the log for codebooks that learn from clicks, on validation rows; about 5 minutes per data set and core.
codebook-windows: $(VENV)/.made
	$(BIN)/python benchmarks/codebook_windows.py --work $(WORK)/codebook-windows --presets smile \
	  --data synthetic:strong synthetic:clustered $(REAL:%=$(SIDKIT_DATA)/%)

# Whether the papers' mechanisms act, by settings, on validation rows; then what behaviour vectors hold of popularity.
mechanisms: $(VENV)/.made
	$(BIN)/python benchmarks/mechanisms.py --work $(WORK)/mechanisms $(OPEN) --table --data synthetic:clustered synthetic:strong \
	  $(REAL:%=$(SIDKIT_DATA)/%)
	$(BIN)/python benchmarks/popularity.py --work $(WORK)/mechanisms --data synthetic:clustered $(REAL:%=$(SIDKIT_DATA)/%)

# What statistics of codes add: settings are chosen on validation rows, then `make codes OPEN=--open` compares on test rows.
codes: $(VENV)/.made
	$(BIN)/python benchmarks/codes.py --work $(WORK)/codes --tune $(OPEN) --data synthetic:clustered synthetic:strong \
	  $(REAL:%=$(SIDKIT_DATA)/%)

# A neighbour prior, GateSID and a blend by counts against their controls, on validation rows; `make gates OPEN=--open`: on test rows.
gates: $(VENV)/.made
	$(BIN)/python benchmarks/gates.py --work $(WORK)/gates $(OPEN) --data synthetic:clustered synthetic:strong \
	  $(REAL:%=$(SIDKIT_DATA)/%)

# Adapters that are refitted daily, and joint re-ranking, against their controls, on validation rows; OPEN=--open: on test rows.
adapters: $(VENV)/.made
	$(BIN)/python benchmarks/adapters.py --work $(WORK)/adapters $(OPEN) --data synthetic:clustered $(REAL:%=$(SIDKIT_DATA)/%)

# CCFRec, Hi-SAM and MMQ-v2 against their inputs as plain features, and against their controls.
modalities: $(VENV)/.made
	$(BIN)/python benchmarks/modalities.py --work $(WORK)/modalities --data $(SIDKIT_DATA)/ml_latest_small --groups ccfrec hisam
	$(BIN)/python benchmarks/modalities.py --work $(WORK)/modalities --data synthetic:clustered --groups mmq

# Every system that the papers are compared with, five seeds; it resumes. FAMILY="--finished" compares what is finished, --open test rows.
family: $(VENV)/.made
	$(BIN)/python benchmarks/family.py --work $(WORK)/family --jobs 2 --write $(FAMILY) --data synthetic:strong $(REAL:%=$(SIDKIT_DATA)/%)

# Worlds in which Reindex-Then-Adapt and CROSS-JEM have something to find; a few minutes.
PLANTED = --jobs 2 --max-train-rows 60000 --max-evaluation-rows 30000 --write --results benchmarks/results/family_planted.json

planted: $(VENV)/.made
	$(BIN)/python benchmarks/planted_worlds.py --out $(WORK)/planted
	$(BIN)/python benchmarks/family.py --work $(WORK)/planted/repos $(PLANTED) --data $(WORK)/planted/competing --systems CROSS-JEM
	$(BIN)/python benchmarks/family.py --work $(WORK)/planted/repos $(PLANTED) --data $(WORK)/planted/shifted \
	  --systems "Reindex-Then-Adapt, bias" "Reindex-Then-Adapt, gate"

# Attention over histories against their mean, in the world made for it and on data sets. ATTENTION=--open compares on test rows.
attention: $(VENV)/.made
	$(BIN)/python benchmarks/planted_worlds.py --out $(WORK)/planted
	$(BIN)/python benchmarks/attention.py --work $(WORK)/attention --write $(ATTENTION) --data $(WORK)/planted/tastes \
	  $(SIDKIT_DATA)/xwines_slim synthetic:strong $(SIDKIT_DATA)/ml_latest_small

# Every shipped arm by the command of users, five seeds; two to three hours, it resumes.
all-arms: $(VENV)/.made
	$(BIN)/python benchmarks/all_arms.py --work $(WORK)/all_arms --write --data $(REAL:%=$(SIDKIT_DATA)/%) synthetic:strong

# Codes instead of ids under one table size, with hashed ids as control.
table-budget: $(VENV)/.made
	$(BIN)/python benchmarks/table_budget.py --work $(WORK)/table_budget --table $(OPEN) --data synthetic:strong \
	  $(REAL:%=$(SIDKIT_DATA)/%)

# What attributes add on real data, whether rankers find what clicks depend on, and what attributes cost.
attributes: $(VENV)/.made
	$(BIN)/python benchmarks/attributes.py --work $(WORK)/attributes --data $(REAL:%=$(SIDKIT_DATA)/%)
	$(BIN)/python benchmarks/attribute_tries.py --work $(WORK)/attribute_tries --data $(SIDKIT_DATA)/uci_online_retail
	$(BIN)/python benchmarks/invented.py --work $(WORK)/invented
	$(BIN)/python benchmarks/attribute_costs.py --work $(WORK)/attribute_costs

# Codes that learned from clicks against shuffled codes, on windows that follow the codebook's.
behaviour-codes: $(VENV)/.made
	$(BIN)/python benchmarks/behaviour_codes.py --work $(WORK)/behaviour_codes --data synthetic:clustered synthetic:strong $(REAL:%=$(SIDKIT_DATA)/%)

# The steps of examples/deploy/Dockerfile without Docker (they install into a temporary folder), its command on a repository
# until it is healthy, and the examples inside BentoML and KServe themselves. Needs a repository: `make demo` makes one.
DEPLOY_REPO ?= demo

deploy: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m helpers.dockerfile examples/deploy/Dockerfile $(DEPLOY_REPO)
	@for server in bentoml kserve; do \
	  $(PYTHON) -m venv $(WORK)/$$server && $(WORK)/$$server/bin/pip install --quiet $$server '.[rank]' && \
	  PYTHONPATH=tests $(BIN)/python -m helpers.model_servers $$server $(abspath $(WORK))/$$server/bin/python $(DEPLOY_REPO) || exit 1; \
	done

# What statistics of codes cost in time, memory and bytes, on 10 million invented impressions.
code-stats-costs: $(VENV)/.made
	$(BIN)/python benchmarks/code_stats_costs.py --work $(WORK)/code_stats_costs

# k-means of 1 million vectors beside faiss (same sample, same iterations), and every codebook command on 100,000 items.
codebook-costs: $(VENV)/.made
	$(BIN)/python benchmarks/codebook_costs.py kmeans
	$(BIN)/python benchmarks/codebook_costs.py read --work $(WORK)/codebook_costs
	$(BIN)/python benchmarks/codebook_costs.py commands --work $(WORK)/codebook_costs
	$(BIN)/python benchmarks/codebook_costs.py shards --rows 4000000 --work $(WORK)/codebook_costs

# Every stage of `sidkit run` by the size of the log; SIZES has the numbers of impressions.
SIZES ?= 100000 1000000

stage-costs: $(VENV)/.made
	$(BIN)/python benchmarks/stage_costs.py --impressions $(SIZES) --work $(WORK)/stage_costs

# Ingest, tables and a frame of 10 and 100 million impressions; it resumes. 40 GB of disk, and hours.
large-log: $(VENV)/.made
	$(BIN)/python benchmarks/large_log.py --work $(WORK)/large_log

# Ticks, pushes and bytes by the size of the log; then the simulated day and the page computed from all measured costs.
tick-costs: $(VENV)/.made
	$(BIN)/python benchmarks/tick_costs.py --work $(WORK)/tick_costs
	$(BIN)/python benchmarks/day_simulation.py
	$(BIN)/python benchmarks/arithmetic.py --write

# Bytes per item against AUC: ids, decoded codes, and content vectors of three precisions.
bytes-per-item: $(VENV)/.made
	$(BIN)/python benchmarks/bytes_per_item.py --work $(WORK)/bytes --data $(REAL:%=$(SIDKIT_DATA)/%) synthetic:strong

# Frames of real data sets, code statistics included, recomputed from the log by independent code: 10,000 rows each.
audits: $(VENV)/.made
	$(BIN)/python benchmarks/audits.py --work $(WORK)/audits --data synthetic:clustered $(REAL:%=$(SIDKIT_DATA)/%)

# From a click, and from a new item, to the online store of REPO, and a comparison with a rebuild.
events-latency: $(VENV)/.made
	$(BIN)/python benchmarks/events.py --repo $(REPO) --out benchmarks/results/events.json

# One writer and eight readers on a packed online store for a minute; stops at a torn row or an error.
online-load: $(VENV)/.made
	PYTHONPATH=tests $(BIN)/python -m helpers.online_load 60

# Property tests of the stores, their oracles and mined pairs on thousands of random cases, and bit flips at more positions; CI
# runs a subset.
proof: $(VENV)/.made
	SIDKIT_PROOF=1 $(BIN)/python -m pytest -n 2 tests/stores/offline/test_asof_laws.py tests/stores/offline/test_binary_search.py \
	  tests/stores/offline/test_asof_random.py tests/stores/offline/test_asof_versus_feast.py tests/oracle/test_oracle_worlds.py \
	  tests/semantic_ids/pairs/test_mining.py tests/ranking/data/test_dataset_from_log.py tests/system/test_rot.py tests/ranking/pipeline/test_run.py tests/docs/test_site.py

# Benchmarks of the stores against alternatives; bench-check recomputes the ratios from the raw times.
bench: $(VENV)/.made
	$(BIN)/python benchmarks/retrieval.py
	@if [ -f benchmarks/online.py ]; then $(BIN)/python benchmarks/online.py; fi
	$(MAKE) bench-check

# Scores by onnxruntime against torch, for 500 candidates: processor time of one thread.
bench-onnx: $(VENV)/.made
	$(BIN)/python benchmarks/onnx_runtime.py --repo $(DEPLOY_REPO)

# Reads from the packed store on Redis, the packed file and Feast's Redis store, in one run; about a minute.
bench-redis: $(VENV)/.made
	$(BIN)/python benchmarks/redis_store.py

bench-check: $(VENV)/.made
	$(BIN)/python benchmarks/check.py

clean:
	rm -rf demo $(WORK) .pytest_cache .mypy_cache .ruff_cache
