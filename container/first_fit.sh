#!/bin/bash
# How long a new container takes from `mpirun` to the first fit, its kernels not yet copied to this machine's disk:
#
#     container/first_fit.sh IMAGE [RANKS]
#
# Three times; the first one also reads the image from disk.
set -euo pipefail

image=$(realpath "${1:?usage: first_fit.sh IMAGE [RANKS]}")
ranks=${2:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# only for this measurement: Open MPI does not let root run by itself, nor more ranks than cores
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export APPTAINERENV_TMPDIR=/mnt APPTAINERENV_NUMBA_DEBUG_CACHE=1

apptainer run "$image" simulate campaign -n 1 --seed 1 --kind easy >simulate.log
for _ in 1 2 3; do
  rm -rf temporary
  mkdir temporary
  begin=$(date +%s.%N)
  apptainer exec --bind "$work/temporary:/mnt" "$image" mpirun -n "$ranks" \
    sphot-mpi campaign/catalogue.csv --filters F150W --overwrite -o results.h5 >run.log 2>&1 || { cat run.log >&2; exit 1; }
  apptainer exec "$image" python -c '
import sys, h5py
with h5py.File("results.h5") as file:
    seconds = file["provenance"]["started"].min() - float(sys.argv[1])
    ranks = file.attrs["ranks"]
print(f"{ranks} ranks: the first fit began after {seconds:.1f} s; {sys.argv[2]} kernels were compiled")
' "$begin" "$(grep -c '\[cache\] data saved' run.log || true)"
done
