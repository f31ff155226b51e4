# All that is needed is Python 3.11 or newer; every target makes its own .venv from PyPI.
#
#   make venv       the environment
#   make demo       simulate four galaxies, fit them, compare with the truth, draw one, make the report
#   make test       what CI runs: check, then all tests but the slow ones; with MPI where root and apt are there
#   make check      style, types, layers, docstrings
#   make test-slow  the tests that take minutes
#   make test-slurm every job script of slurm/, submitted to a Slurm on this machine (Debian, as root)
#   make image      sphot-mpi-mpich.sif; with MPI=openmpi sphot-mpi-openmpi.sif (Debian, as root)
#   make test-image the image, in every way of running it, and how soon it begins to fit
#   make lock       new versions into the image's lock files
#   make bench      accuracy on simulated galaxies and core-seconds, as in docs/accuracy.md and docs/cpu.md
#   make browser    headless Chromium, in which the tests open the report (Debian, as root)
#   make mpi        mpi4py and an MPI build of h5py into .venv (Debian, as root)

SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3
PIP := $(VENV)/bin/pip --disable-pip-version-check
READY := $(VENV)/.ready
# what MPI needs in the environment, where it is set up
MPI_ENV := if [ -f $(VENV)/mpi-env.sh ]; then . $(VENV)/mpi-env.sh; fi

export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export NUMBA_NUM_THREADS ?= 1
export MPLBACKEND ?= agg

# the image: which MPI is in it, and whether it starts from Docker Hub (docker) or from a Debian made here (local)
MPI ?= mpich
BASE ?= local
IMAGE := sphot-mpi-$(MPI).sif
SCRIPTS := .ci/run container/*.sh slurm/*.sh slurm/*.sbatch slurm/testbed/*.sh

.PHONY: venv mpi browser slurm demo test check test-slow test-slurm image test-image lock bench clean

venv: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("sphot-mpi needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -U "pip>=25.1"
	$(PIP) install -q -e . --group test --group check
	touch $@

# never an error: without MPI everything works in one process, with serial HDF5
mpi: $(READY)
	@if [ -f $(VENV)/mpi-env.sh ] && . $(VENV)/mpi-env.sh && command -v $$MPIRUN >/dev/null \
	  && $(VENV)/bin/python -c 'import h5py; from mpi4py import MPI; assert h5py.get_config().mpi' 2>/dev/null; then \
	  echo "MPI: ready"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  timeout 2400 container/install_mpi.sh $(VENV) || echo "MPI: the set-up failed; its tests are skipped, all else runs."; \
	else \
	  echo "MPI: no root or no apt; its tests are skipped, all else runs."; \
	fi

# never an error: without a browser the tests of the report in one are skipped
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then \
	  echo "Browser: ready"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (timeout 900 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 900 apt-get install -y -qq \
	    --no-install-recommends chromium >/dev/null) || echo "Browser: none; its tests are skipped, all else runs."; \
	else \
	  echo "Browser: no root or no apt; its tests are skipped, all else runs."; \
	fi

# never an error, either: without Slurm its tests are skipped
slurm:
	@slurm/testbed/setup.sh >/dev/null || echo "Slurm: not installed; its tests are skipped, all else runs."

demo: $(READY)
	$(VENV)/bin/sphot-mpi simulate demo -n 4 --seed 1 --kind demo --overwrite
	$(VENV)/bin/sphot-mpi demo/catalogue.csv -o demo/results.h5 --overwrite
	$(VENV)/bin/sphot-mpi truth demo/results.h5 demo/truth.ecsv
	name=$$(sed -n 2p demo/catalogue.csv | cut -d, -f1) \
	  && $(VENV)/bin/sphot-mpi plot demo/results.h5 "$$name" -o "demo/$$name.png"
	$(VENV)/bin/sphot-mpi report demo/results.h5 -o demo/qa

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m numpydoc lint sphot_mpi/*.py sphot_mpi/*/*.py
	$(VENV)/bin/shellcheck -x $(SCRIPTS)

test: check mpi browser slurm
	@$(MPI_ENV); $(VENV)/bin/python -m pytest -m "not slow"

test-slow: $(READY)
	@$(MPI_ENV); $(VENV)/bin/python -m pytest -m "slow and not slurm and not image"

# starts the test Slurm, and stops it whatever happens
test-slurm: mpi
	slurm/testbed/setup.sh
	@$(MPI_ENV); SPHOT_TEST_SLURM=1 $(VENV)/bin/python -m pytest tests/slurm -m "slurm and not image"

image:
	container/build_image.sh $(IMAGE) $(MPI) $(BASE)

# the hosts' launchers as well: mpirun of both MPIs, and srun
test-image: mpi
	command -v apptainer >/dev/null || container/setup_apptainer.sh
	[ -s $(IMAGE) ] || $(MAKE) image
	slurm/testbed/setup.sh
	command -v mpirun.mpich >/dev/null || apt-get -q install -y --no-install-recommends mpich
	@$(MPI_ENV); SPHOT_TEST_SLURM=1 SPHOT_IMAGE=$(abspath $(IMAGE)) $(VENV)/bin/python -m pytest tests/image tests/slurm -m image
	container/first_fit.sh $(IMAGE) 2

lock: $(READY)
	$(VENV)/bin/python container/lock.py

bench: $(READY)
	$(VENV)/bin/python benchmarks/accuracy.py --kind typical crowded -n 8 --preset best --exact-psf
	$(VENV)/bin/python benchmarks/cpu.py

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache
