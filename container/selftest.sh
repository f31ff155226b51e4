#!/bin/sh
# What `apptainer test` runs: version, imports, a collective write of two ranks, a fit, and nothing compiled for it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export MPLCONFIGDIR="$work"
# only for this test: Open MPI does not let root run by itself, nor more ranks than cores
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
# whatever launcher started this container, the ranks below are not its own
for name in $(env | sed -n 's/^\(\(PMI\|PMIX\|SLURM\|OMPI_COMM_WORLD\|PALS\|MPI\)_[A-Z0-9_]*\)=.*/\1/p'); do
    unset "$name"
done

sphot-mpi --version
python -c 'import h5py, mpi4py, numba, scipy, astropy, photutils, matplotlib; assert h5py.get_config().mpi'
test "$(mpirun -n 2 python /opt/sphot-mpi/collective.py "$work/collective.h5" | tee collective.txt | grep -c '^2 ranks.*ok$')" = 1
cat collective.txt
sphot-mpi simulate campaign -n 1 --seed 1 --kind easy
mpirun -n 2 sphot-mpi campaign/catalogue.csv -o results.h5 --filters F150W,F277W
sphot-mpi info results.h5
sphot-mpi warmup --check
echo "sphot-mpi works here."
