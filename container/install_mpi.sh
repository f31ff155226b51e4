#!/bin/bash
# Put mpi4py and an MPI build of h5py into a virtual environment (Debian, as root, Open MPI):
#
#     container/install_mpi.sh .venv
#
# The first run on a machine builds an h5py wheel (5 to 9 minutes) and keeps it in a per-user cache;
# later runs install that in seconds. The environment itself is touched only when the wheel is there,
# so a failed build leaves a working serial installation behind.
set -euo pipefail

venv=$(cd "$1" && pwd)
h5py_version=${H5PY_VERSION:-$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("h5py"))')}
cache=${SPHOT_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sphot-mpi/wheels}

header=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
packages=()
if ! pkg-config --exists hdf5-openmpi 2>/dev/null || ! command -v mpirun.openmpi >/dev/null; then
  packages+=(gcc libc6-dev pkg-config openmpi-bin libopenmpi-dev libhdf5-openmpi-dev)
fi
# Debian has the headers of its own Python in a package apart, by the version's name
if [ ! -e "$header" ] && [[ $header == /usr/include/* ]]; then
  packages+=("$(basename "$(dirname "$header")")-dev")
fi
if [ ${#packages[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

# one folder a combination: the wheel's file name tells neither the MPI nor the HDF5 it was built on
python_tag=$("$venv/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
wheels="$cache/openmpi-hdf5_$(pkg-config --modversion hdf5-openmpi)-$python_tag-$(uname -m)"
mkdir -p "$wheels"

if ! ls "$wheels"/h5py-"$h5py_version"-*.whl >/dev/null 2>&1; then
  echo "building h5py $h5py_version for MPI; 5 to 9 minutes, once a machine"
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  "$venv/bin/python" -m venv "$build/venv"
  "$build/venv/bin/pip" install -q --disable-pip-version-check \
    "pip>=24" "mpi4py>=4.1" numpy "Cython>=3,<4" pkgconfig "setuptools>=77" wheel
  # without --no-build-isolation pip compiles an old mpi4py from source, which takes longer than all the rest
  HDF5_MPI=ON CC=mpicc.openmpi HDF5_PKGCONFIG_NAME=hdf5-openmpi CFLAGS="-O1 -g0" \
    "$build/venv/bin/pip" wheel -q --disable-pip-version-check --no-cache-dir --no-build-isolation \
    --no-binary=h5py --no-deps -w "$build/wheel" "h5py==$h5py_version"
  mv "$build/wheel"/h5py-*.whl "$wheels/"
fi

"$venv/bin/pip" install -q --disable-pip-version-check "mpi4py>=4.1"
# --no-index: never the serial wheel of the same name
"$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-index --no-deps \
  --find-links "$wheels" "h5py==$h5py_version"

cat >"$venv/mpi-env.sh" <<'ENV'
export MPI4PY_MPIABI=openmpi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export MPIRUN=${MPIRUN:-mpirun.openmpi}
ENV
# shellcheck source=/dev/null
. "$venv/mpi-env.sh"
"$venv/bin/python" -c '
import h5py
from mpi4py import MPI
assert h5py.get_config().mpi, "h5py has no MPI"
print("h5py", h5py.__version__, "on HDF5", h5py.version.hdf5_version, "and", MPI.Get_library_version().split(",")[0])'
