# Two commands do everything on a fresh machine with Python >= 3.11 and make:  make demo   make test
# PYTHON=python3.12 chooses the interpreter, PIP_FLAGS=... is handed to pip (a mirror, an offline folder, a CPU build).
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow bench bench-networks bench-compare bench-plots resources claims claims-gpu figures exports lint mutants test-lowest clean

help:
	@echo "make demo         run every operator on a photograph moved by a known flow, write motionspec-demo/report.html"
	@echo "make test         lint, type check and run all tests"
	@echo "make test-slow    the tests that it leaves out: networks exported and compiled by inductor, kernels for sm_80, sm_89 and sm_100 (some minutes)"
	@echo "make bench        time every operator, after checking it, beside floor and peers, write benchmarks/results (ONLY=off)"
	@echo "make bench-networks  networks at full speed beside eager float32 and torch.compile, write benchmarks/results (ONLY=TSN)"
	@echo "make bench-compare BASE=commit   fail if this checkout is slower than that commit (ONLY=off)"
	@echo "make bench-plots  draw time and fraction of the floor over size from benchmarks/results, write docs/scaling.md"
	@echo "make resources    compile every Triton kernel, no GPU needed, write benchmarks/resources.txt"
	@echo "make claims       put the papers' claims to the test for an hour on two cores, write docs/claims.md (BUDGET=60 JOBS=2)"
	@echo "make claims-gpu   the same, larger, for nine minutes on a GPU (BUDGET=9 JOBS=8); both go on where they stopped (ONLY=off)"
	@echo "make figures      draw docs/figures/*.png again"
	@echo "make exports      export and compile each network, write docs/exports.md"
	@echo "make lint         ruff and mypy only"
	@echo "make test-lowest  the tests with the lowest versions that pyproject.toml admits (lowest.txt): the oracle without torch, then all (6 GB)"
	@echo "make mutants      plant mistakes in operators and oracle and count those that the tests miss (an hour; of kernels STEMS=off_numba)"
	@echo "make clean        remove .venv and build products"

# The stamp is younger than what it was made from, or the environment is brought up to date.
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "motionspec needs Python 3.11 or later; $(PYTHON) is `$(PYTHON) -V`. Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "== creating .venv with the versions of constraints.txt (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[test]'
	@touch $@

demo: .venv/.stamp
	$(BIN)/motionspec demo

test: lint
	@echo "== tests"
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'
	@echo "== Triton kernels in Triton's interpreter"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/test_kernels.py

test-slow: .venv/.stamp
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow
	@echo "== transforms of Triton kernels in Triton's interpreter"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/test_transforms.py -k 'triton and eager_operator'

# ONLY chooses rows, as pytest's -k does: ONLY="tvl1 and forward".
bench: .venv/.stamp
	$(BIN)/python -m pytest benchmarks -v -rN --tb=no --results benchmarks/results $(if $(ONLY),-k '$(ONLY)')

# ONLY chooses cases whose name has it: ONLY=TSN.
bench-networks: .venv/.stamp
	$(BIN)/python benchmarks/networks.py --results benchmarks/results $(if $(ONLY),--only '$(ONLY)')

bench-compare: .venv/.stamp
	@test -n '$(BASE)' || { echo "which commit? make bench-compare BASE=main"; exit 2; }
	$(BIN)/python benchmarks/compare.py '$(BASE)' $(if $(ONLY),--only '$(ONLY)')

bench-plots: .venv/.stamp
	$(BIN)/python benchmarks/plots.py

resources: .venv/.stamp
	$(BIN)/python benchmarks/resources.py

# What is done stays done: the same command does more of what is left.
claims: .venv/.stamp
	$(BIN)/python benchmarks/claims.py --device cpu --budget $(or $(BUDGET),60) --jobs $(or $(JOBS),2) $(if $(ONLY),--only '$(ONLY)')

claims-gpu: .venv/.stamp
	$(BIN)/python benchmarks/claims.py --device cuda --budget $(or $(BUDGET),9) --jobs $(or $(JOBS),8) $(if $(ONLY),--only '$(ONLY)')

figures: .venv/.stamp
	$(BIN)/python docs/figures.py

exports: .venv/.stamp
	$(BIN)/python docs/exports.py

lint: .venv/.stamp
	@echo "== ruff, then mypy on an installed copy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/lib build/typecheck
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --target build/typecheck .
	$(BIN)/mypy

# Each environment is made anew: nothing that a later version left behind is in it. torch of the registry brings CUDA.
test-lowest:
	@echo "== lowest NumPy, SciPy and OpenCV, without torch"
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c lowest.txt pytest pytest-timeout hypothesis jsonschema -e '.[video]'
	build/lowest/bin/python -m pytest
	@echo "== lowest torch, Triton, numba and all else"
	rm -rf build/lowest-torch && $(PYTHON) -m venv build/lowest-torch
	build/lowest-torch/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c lowest.txt -e '.[test]'
	build/lowest-torch/bin/python -m pytest -n auto --dist worksteal -m 'not slow'
	TRITON_INTERPRET=1 build/lowest-torch/bin/python -m pytest -n auto --dist worksteal tests/test_kernels.py

# Of the last commit, in a clone. What is done is kept in build/mutants: a second run goes on where the first stopped.
build/mutants/.stamp: pyproject.toml constraints.txt
	@echo "== an environment of its own, with cosmic-ray (a few minutes the first time)"
	rm -rf build/mutants/clone build/mutants/venv && git clone --quiet . build/mutants/clone
	$(PYTHON) -m venv build/mutants/venv
	build/mutants/venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e 'build/mutants/clone[mutants]'
	@touch $@

mutants: build/mutants/.stamp
	build/mutants/venv/bin/python -m pytest -q -n 0 tests/test_mutants.py
	OMP_NUM_THREADS=1 nice build/mutants/venv/bin/python tools/mutants.py $(STEMS)

clean:
	rm -rf .venv build *.egg-info
