#!/bin/bash
# Install what the test Slurm needs (Debian, as root): Slurm, munge, and Open MPI's launcher.
set -euo pipefail
missing=()
for program in munged:munge slurmctld:slurmctld slurmd:slurmd srun:slurm-client mpirun.openmpi:openmpi-bin; do
  command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
[ ${#missing[@]} = 0 ] && exit 0
[ "$(id -u)" = 0 ] || { echo "testbed: ${missing[*]} are missing, and only root can install them" >&2; exit 2; }
command -v apt-get >/dev/null || { echo "testbed: ${missing[*]} are missing, and there is no apt" >&2; exit 2; }
apt-get -q -o DPkg::Lock::Timeout=600 update
DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${missing[@]}"
