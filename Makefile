# `make demo` and `make test` are all that a newcomer needs; both set up what is missing.
.PHONY: help setup demo test test-vm image test-long fuzz lint bench bench-paper lock clean

PY := .venv/bin/python

help:
	@echo "make demo [DATA=folder]  the whole story: five parties, one manager, two hosts, a model trained and served"
	@echo "make test                all tests (about 13 minutes on 2 cores)"
	@echo "make test-long           a million mutations of evidence, and what else takes minutes"
	@echo "make fuzz                fuzz every parser of evidence [FUZZ_SECONDS=120 in all] [FUZZ_TARGETS=\"attest public\"]"
	@echo "make image [IMAGE=build/image ROLE=host KEYS=folder LAYER=folder]  a machine image: EROFS under dm-verity, signed unified kernel image"
	@echo "make test-vm [ONLY=road]  build the image and boot it: firmware, kernel, IMA, TPM, a job, then the attacks (about 15 minutes)"
	@echo "make lint                ruff, mypy --strict, the import contract"
	@echo "make bench               measure, and write bench/results"
	@echo "make bench-paper [DATA=folder]  train on CIFAR-10 and brain MRI, plainly and under Perun, with a GPU where there is one"
	@echo "make setup               Debian packages and .venv"
	@echo "make lock                lock Python packages anew"

setup:
	@tools/setup.sh

demo: setup
	@$(PY) -m perunml quickstart $(if $(DATA),--data "$(DATA)")

test: setup
	@$(PY) -m pytest -q -n 2 --dist loadfile

image:
	@IMAGES=1 tools/setup.sh
	@images/build.sh --out $(or $(IMAGE),build/image) --role $(or $(ROLE),host) $(if $(KEYS),--keys $(KEYS)) $(foreach layer,$(LAYER),--layer $(layer))

test-vm:
	@IMAGES=1 tools/setup.sh
	@$(PY) -m pytest -q -n 0 -m vm --durations=0 tests/vm $(if $(ONLY),-k "$(ONLY)")

test-long: setup
	@$(PY) -m pytest -q -n 2 -m long

fuzz: setup
	@$(PY) -m pip --disable-pip-version-check --quiet install -r requirements/fuzz.txt
	@$(PY) fuzz/run.py --seconds $(or $(FUZZ_SECONDS),120) $(FUZZ_TARGETS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup
	@$(PY) bench/run.py

bench-paper: setup
	@$(PY) -m pip --disable-pip-version-check --quiet install -r requirements/bench.txt
	@$(PY) bench/paper/run.py $(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick)

lock:
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-package perunml requirements/lock.in --output-file requirements/lock.txt
	@for role in host manager; do uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_36 --generate-hashes \
	    --no-header --no-annotate --no-emit-package perunml -c requirements/lock.txt images/$$role/requirements.in \
	    --output-file images/$$role/requirements.txt; done

clean:
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
