#!/bin/bash
# Collect the cluster's own MPI for use in the MPICH image (the bind model of docs/clusters.md):
#
#     container/host_mpi.sh /path/of/libmpi.so.12 hostmpi
#     srun apptainer exec --bind "$PWD/hostmpi" --env "LD_LIBRARY_PATH=$PWD/hostmpi" sphot-mpi-mpich.sif sphot-mpi ...
#
# The library must be of the MPICH family: MPICH, Intel MPI, MVAPICH, Cray's cray-mpich-abi.
set -euo pipefail

library=${1:?usage: host_mpi.sh /path/of/libmpi.so.12 FOLDER}
folder=${2:?usage: host_mpi.sh /path/of/libmpi.so.12 FOLDER}
[ -r "$library" ] || { echo "host_mpi.sh: there is no $library" >&2; exit 2; }
mkdir -p "$folder"
# what it needs, but for the C library and its kin, which must be the image's
ldd "$library" | awk '$2 == "=>" && $3 ~ "^/" {print $3}' \
  | grep -v -E '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+))\.so[^/]*$' \
  | xargs -r cp -L -t "$folder"
cp -L "$library" "$folder/libmpi.so.12"
# Debian's name of the same library, for HDF5
ln -sfn libmpi.so.12 "$folder/libmpich.so.12"
echo "$(find "$folder" -type f | wc -l) libraries in $folder; libraries that it opens by name, such as libfabric's" \
  "providers, may have to be bound as well"
