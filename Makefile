# SPDX-License-Identifier: Apache-2.0
# Everyday commands. PYTHON may point at another interpreter: make test PYTHON=.venv/bin/python
PYTHON ?= python
NAME ?=
GPU_ARGS ?=

.PHONY: help build test bench lint doctor new-op native-test cuda gpu

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

build:  ## build the kernels and install the package in place
	$(PYTHON) -m pip install -e .

test:  ## the whole test suite
	$(PYTHON) -m pip install -e '.[test]' && $(PYTHON) -m pytest

bench:  ## every benchmark, each checked against its rival before it is timed
	$(PYTHON) -m pip install -e '.[bench]' && $(PYTHON) -m pytest benchmarks --benchmark-only

lint:  ## formatters, linters and forbidden patterns over the whole tree
	$(PYTHON) -m pip install -q pre-commit && $(PYTHON) -m pre_commit run --all-files

doctor:  ## what is loaded, for which device, and what is missing
	$(PYTHON) -m fastreid_ops.doctor

new-op:  ## make new-op NAME=row_norm: a new op's files from the template
	$(PYTHON) tools/new_op.py $(NAME)

native-test:  ## C++ tests and the CUDA emulation: plain, under ASan+UBSan and under TSan
	tools/native_test.sh

cuda:  ## compile and link the CUDA side, with or without a GPU
	FASTREID_CUDA=1 $(PYTHON) -m pip install -e .

gpu:  ## on a machine with a GPU: build, tests, sanitizers, benchmarks; writes benchmarks/results/<gpu>.json (GPU_ARGS=--help)
	$(PYTHON) tools/gpu_check.py $(GPU_ARGS)
