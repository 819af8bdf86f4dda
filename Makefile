# Every target installs what it needs first and skips what is already done.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRA ?= cpu
# The CPU and the CUDA build of vLLM install the same package, so each has an environment of its own.
VENV ?= $(if $(filter gpu,$(EXTRA)),.venv-gpu,.venv)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(EXTRA)

export HF_HUB_OFFLINE := 1
export VLLM_NO_USAGE_STATS := 1

.PHONY: demo test matrix lint protos lock clean install quality

demo: install  ## start everything on the demo model, edit 20 facts, roll back
	$(BIN)/horen demo

test: install  ## the default suite (unit, contract, engine tests)
	$(BIN)/python -m pytest -m "not matrix"

matrix: install  ## every engine configuration
	$(BIN)/python -m pytest -m matrix tests/e2e

lint: install  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quality: install  ## 100 edits, 500 unedited facts: writes bench/results/edit_quality.json
	$(BIN)/python -m bench.edit_quality

protos: install  ## regenerate horen_vllm/control/_pb from proto/
	$(BIN)/python proto/generate.py

lock: install  ## pin the closure again (needs uv)
	uv pip compile pyproject.toml requirements/build.txt --extra cpu --extra dev \
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[gpu,dev]"
	touch $@

clean:  ## remove the virtualenv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
