# Needs python3 (3.11 or later, with venv) and make; everything else comes from the hashed locks in requirements/.
PYTHON3 ?= python3
VENV ?= .venv
UV ?= uv
JOBS ?= 2
PYTEST_ARGS ?=
CUDA_MODELS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
GPU_CHECK_ARGS ?=

PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip -qq --disable-pip-version-check
# Modules are compiled when they are first imported: compiling all is half of an installation's time.
LOCKED := $(PIP) install --require-hashes --no-build-isolation --use-pep517 --no-compile
TORCH := torch==2.13.0
TORCHVISION := torchvision==0.28.0
# In the order of the files: the larger ones first would all wait for the one run that is trained for them.
TEST := $(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help install install-cuda12 install-cuda13 install-video install-heif install-tiff install-hub install-import install-onnx install-openvino install-ray install-cuda-compile check test test-long test-cuda test-reference test-browser test-onnx test-ray docs demo bench-data gpu-check lock clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## */:/' | awk -F: '{printf "  %-20s %s\n", $$1, $$2}'

install: $(VENV)/.base  ## Virtual environment in VENV (.venv) with the locked dependencies and this package
install-cuda12: $(VENV)/.cuda12  ## The same, with JAX for NVIDIA GPUs (CUDA 12)
install-cuda13: $(VENV)/.cuda13  ## The same, with JAX for NVIDIA GPUs (CUDA 13)
install-video: $(VENV)/.video  ## The same, with PyAV for video files (predict.py); joins any of the above
install-heif: $(VENV)/.heif  ## The same, with pillow-heif for HEIC pictures (predict.py); joins any of the above
install-tiff: $(VENV)/.tiff  ## The same, with tifffile for TIFF frames of other channels than RGB; joins any of the above
install-hub: $(VENV)/.hub  ## The same, with huggingface_hub for weights by name (hf:owner/name); joins any of the above
install-import: $(VENV)/.import  ## The same, with pycocotools for polygons of COCO (data.import_labels); joins any of the above
install-onnx: $(VENV)/.onnx  ## The same, with onnx and onnxruntime for convert.py --to onnx; joins any of the above
install-openvino: $(VENV)/.openvino  ## The same, with OpenVINO for predict.py --engine openvino; joins any of the above
install-ray: $(VENV)/.ray  ## The same, with Ray Data, to share many videos out (docs/many_videos.md); joins any of the above
install-cuda-compile: $(VENV)/.cuda-compile  ## XLA's compiler for CUDA and ptxas, no driver and no GPU, in VENV/cuda-compile (benchmarks/roofline.py)

check: $(VENV)/.check $(VENV)/.video $(VENV)/.onnx  ## Lint, format and types (those of PyAV and onnx are their own)
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/pyrefly check --python-interpreter-path $(PYTHON) --min-severity error --summary=none

test: $(VENV)/.test  ## Short suite (PYTEST_ARGS="-k metrics"), in JOBS processes
	@$(TEST) --durations=10 $(PYTEST_ARGS)

test-long: $(VENV)/.test  ## Long tests, in JOBS processes
	@$(TEST) -m "long and not reference and not browser and not onnx and not ray" $(PYTEST_ARGS)

# Programs that are compiled take seconds or a minute each: who has none left takes another's.
test-cuda: $(VENV)/.test $(VENV)/.cuda-compile  ## Every program compiled for GPUs, without one (CUDA_MODELS="b1 b5" for more than B0)
	@PYTHONPATH=$(abspath $(VENV)/cuda-compile) JAX_PLATFORMS=cpu CUDA_MODELS="$(CUDA_MODELS)" \
	  $(PYTHON) -m pytest -n $(JOBS) --dist worksteal --max-worker-restart 0 -m cuda tests/cuda $(PYTEST_ARGS)

test-reference: $(VENV)/.reference  ## Tests against torch and transformers
	@$(PYTHON) -m pytest -m reference $(PYTEST_ARGS)

test-browser: $(VENV)/.browser  ## Tests of the report in Chromium, which has to be there (apt install chromium)
	@$(PYTHON) -m pytest -m browser $(PYTEST_ARGS)

test-onnx: $(VENV)/.test $(VENV)/.onnx $(VENV)/.openvino  ## Tests of the streams as ONNX, in onnxruntime and OpenVINO
	@$(PYTHON) -m pytest -m onnx $(PYTEST_ARGS)

test-ray: $(VENV)/.test $(VENV)/.ray $(VENV)/.beam  ## Tests of many videos on Ray Data and Apache Beam, on this host
	@$(PYTHON) -m pytest -m ray $(PYTEST_ARGS)

docs: $(VENV)/.base $(VENV)/.docs  ## The documentation as a site in build/site; a broken link or reference is an error
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet --site-dir build/site

demo: $(VENV)/.base  ## Small run from training to masks on synthetic videos (DEMO_ARGS="...")
	@$(PYTHON) benchmarks/demo.py $(DEMO_ARGS)

bench-data: $(VENV)/.bench  ## Speed of the training data beside PyTorch with albumentations (BENCH_ARGS="...")
	@$(PYTHON) benchmarks/data.py $(BENCH_ARGS)

gpu-check: $(VENV)/.base  ## Values, speed and memory on a GPU, in nine minutes (GPU_CHECK_ARGS="--json FILE")
	@$(PYTHON) benchmarks/gpu_check.py $(GPU_CHECK_ARGS)

clean:  ## Delete the virtual environment, caches and build files
	rm -rf $(VENV) .cache .pytest_cache build dist cffm_jax.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each lock: installed once, and again when the lock changes.
$(PYTHON):
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON3) is missing or older than 3.11; install Python 3.11 or later, or give PYTHON3=..." >&2; exit 1; }
	@$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "error: $(PYTHON3) cannot make virtual environments; install python3-venv" >&2; exit 1; }
	@$(PYTHON3) -m venv $(VENV)

$(VENV)/.base: requirements/build.txt requirements/base.txt pyproject.toml setup.py | $(PYTHON)
	@echo "Installing into $(VENV) ..."
	@$(LOCKED) -r requirements/build.txt
	@$(LOCKED) -r requirements/base.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.check $(VENV)/.test $(VENV)/.video $(VENV)/.heif $(VENV)/.tiff $(VENV)/.hub $(VENV)/.import $(VENV)/.onnx $(VENV)/.openvino $(VENV)/.ray $(VENV)/.docs $(VENV)/.cuda12 $(VENV)/.cuda13: $(VENV)/.%: requirements/%.txt $(VENV)/.base
	@$(LOCKED) -r $<
	@touch $@

# As they stand: Beam asks for older pyarrow and protobuf.
$(VENV)/.beam: $(VENV)/.%: requirements/%.txt $(VENV)/.base
	@$(LOCKED) --no-deps -r $<
	@touch $@

# In a folder of its own: in the environment every start of JAX would print that the rest of CUDA's plugin is missing.
$(VENV)/.cuda-compile: requirements/cuda_compile.txt $(VENV)/.base
	@rm -rf $(VENV)/cuda-compile
	@$(LOCKED) --no-deps --target $(VENV)/cuda-compile -r $<
	@touch $@

# The alternatives that benchmarks compare with; torch comes with the reference tests'.
$(VENV)/.bench: requirements/bench.txt $(VENV)/.reference
	@$(LOCKED) -r $<
	@touch $@

# Of the library alone: it drives a Chromium that is there already, and downloads none.
$(VENV)/.browser: requirements/browser.txt $(VENV)/.test
	@$(LOCKED) -r $<
	@touch $@

# Without its dependencies a CPU build of torch is complete; the default one for Linux needs its CUDA libraries.
$(VENV)/.reference: requirements/reference.txt $(VENV)/.test
	@$(LOCKED) -r $<
	@$(PIP) install --no-deps $(TORCH)
	@$(PYTHON) -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
	@rm -rf $(VENV)/torchvision
	@$(PIP) install --no-deps --target $(VENV)/torchvision $(TORCHVISION)
	@touch $@

# For maintainers: solves the locks anew. Pins stay unless UPGRADE=--upgrade.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate $(UPGRADE)
lock:  ## Solve the locks anew (needs uv; UPGRADE=--upgrade moves the pins)
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) pyproject.toml -o requirements/base.txt
	$(COMPILE) requirements/video.in -c requirements/base.txt -o requirements/video.txt
	$(COMPILE) requirements/heif.in -c requirements/base.txt -o requirements/heif.txt
	$(COMPILE) requirements/tiff.in -c requirements/base.txt -o requirements/tiff.txt
	$(COMPILE) requirements/hub.in -c requirements/base.txt -o requirements/hub.txt
	$(COMPILE) requirements/import.in -c requirements/base.txt -o requirements/import.txt
	$(COMPILE) requirements/onnx.in -c requirements/base.txt -o requirements/onnx.txt
	$(COMPILE) requirements/openvino.in -c requirements/base.txt -o requirements/openvino.txt
	$(COMPILE) requirements/test.in -c requirements/base.txt -c requirements/video.txt -o requirements/test.txt
	$(COMPILE) requirements/ray.in -c requirements/base.txt -c requirements/test.txt -o requirements/ray.txt
	$(COMPILE) requirements/beam.in --override requirements/base.txt --override requirements/test.txt --override requirements/ray.txt -o requirements/beam.txt
	$(COMPILE) requirements/check.in -c requirements/base.txt -o requirements/check.txt
	$(COMPILE) requirements/docs.in -c requirements/base.txt -c requirements/test.txt -o requirements/docs.txt
	$(COMPILE) requirements/cuda12.in -c requirements/base.txt -o requirements/cuda12.txt
	$(COMPILE) requirements/cuda13.in -c requirements/base.txt -o requirements/cuda13.txt
	$(COMPILE) requirements/cuda_compile.in -c requirements/base.txt -c requirements/cuda12.txt -o requirements/cuda_compile.txt
	$(COMPILE) requirements/reference.in -c requirements/base.txt -c requirements/test.txt -o requirements/reference.txt
	$(COMPILE) requirements/bench.in -c requirements/base.txt -c requirements/reference.txt -o requirements/bench.txt
	$(COMPILE) requirements/browser.in -c requirements/base.txt -c requirements/test.txt -o requirements/browser.txt
