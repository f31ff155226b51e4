#!/bin/bash
# Build the image on this machine, with all that it needs; as root on Debian this starts from nothing:
#
#     container/build_image.sh [OUT.sif] [mpich|openmpi] [docker|local]
#
# docker: from Docker Hub's Debian.  local (the default): from a base of this machine's Debian mirror, made once.
# SPHOT_PIP_CACHE names a folder in which pip keeps what it downloaded and built, for builds to come.
set -euo pipefail

out=${1:-sphot-mpi.sif}
mpi=${2:-mpich}
base=${3:-local}
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sphot-mpi/images
out=$(realpath -m "$out")

case $mpi in mpich | openmpi) ;; *) echo "build_image.sh: MPI is mpich or openmpi, not $mpi" >&2; exit 2 ;; esac
if ! command -v apptainer >/dev/null || { [ "$base" = local ] && ! command -v debootstrap >/dev/null; }; then
  "$here/setup_apptainer.sh"
fi

cd "$here/.."
revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
flags=(--force --build-arg "MPI=$mpi" --build-arg "REVISION=$revision")
case $base in
  docker) ;;
  local)
    mkdir -p "$cache"
    [ -s "$cache/debian-trixie.sif" ] || "$here/make_base.sh" "$cache/debian-trixie.sif" trixie
    flags+=(--build-arg BOOTSTRAP=localimage --build-arg "FROM=$cache/debian-trixie.sif")
    ;;
  *) echo "build_image.sh: the base is docker or local, not $base" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] && flags+=(--fakeroot)
[ -n "${SPHOT_CFLAGS:-}" ] && flags+=(--build-arg "CFLAGS=$SPHOT_CFLAGS")
if [ -n "${SPHOT_PIP_CACHE:-}" ]; then
  mkdir -p "$SPHOT_PIP_CACHE/$mpi" # a wheel's name does not tell which MPI it was built on
  flags+=(--bind "$SPHOT_PIP_CACHE/$mpi:/mnt")
  export APPTAINERENV_PIP_CACHE_DIR=/mnt
fi
mkdir -p "$(dirname "$out")"
apptainer build "${flags[@]}" --mksquashfs-args '-comp zstd -Xcompression-level 6' "$out" Apptainer.def
