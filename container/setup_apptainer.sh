#!/bin/bash
# From a fresh Debian machine to a working `apptainer`, as root, from Debian's own packages:
#
#     container/setup_apptainer.sh
#
# Where the release has an apptainer package, that is installed.  Debian 12 has none: there sid's package is
# taken.  Its two programs are static Go but for libc, libm, libseccomp and libsqlite3, and want a newer libc than
# Debian 12 has.  So sid's libc goes beside them into a folder of their own, patchelf points the two at it, and
# the result is repacked as apptainer_VERSION~local1_ARCH.deb, which apt installs with its dependencies.  The
# machine's own libc, its apt sources and every other program stay as they are.
set -euo pipefail

cache=${SPHOT_APPTAINER_CACHE:-/var/cache/sphot-mpi-apptainer}
lib=/usr/lib/x86_64-linux-gnu/apptainer/glibc
apt=(apt-get -q -o DPkg::Lock::Timeout=600)
export DEBIAN_FRONTEND=noninteractive

[ "$(id -u)" = 0 ] || { echo "setup_apptainer.sh: needs root" >&2; exit 2; }
command -v apt-get >/dev/null || { echo "setup_apptainer.sh: needs apt" >&2; exit 2; }

mirror() {
  sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1 || true
}

# sid's package with a libc of its own, left in $cache
repack() {
  local work pkg version program options
  "${apt[@]}" install -y --no-install-recommends patchelf xz-utils dpkg-dev >/dev/null
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/build.XXXXXX")
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$work'" EXIT
  mkdir -p "$work"/{lists/partial,cache/archives/partial,download,etc}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) sid main" >"$work/etc/sid.list"
  # a private state, so that sid never becomes a source of the machine; a frozen mirror's dates have passed
  options=(-o "Dir::Etc::sourcelist=$work/etc/sid.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o Acquire::Languages=none
    -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false)
  apt-get -q "${options[@]}" update
  (cd "$work/download" && apt-get -q "${options[@]}" download apptainer libc6)
  pkg=$work/pkg
  dpkg-deb -R "$work"/download/apptainer_*.deb "$pkg"
  dpkg-deb -x "$work"/download/libc6_*.deb "$work/libc"
  mkdir -p "$pkg$lib"
  (cd "$work/libc/usr/lib/x86_64-linux-gnu" && cp -a ld-linux-x86-64.so.2 libc.so.6 libm.so.6 libdl.so.2 \
    libpthread.so.0 librt.so.1 libresolv.so.2 libnss_*.so.2 "$pkg$lib/")
  for program in usr/bin/apptainer usr/lib/x86_64-linux-gnu/apptainer/bin/starter; do
    # RPATH, not RUNPATH: Apptainer sets LD_LIBRARY_PATH for what it runs, and that beats RUNPATH
    patchelf --force-rpath --set-interpreter "$lib/ld-linux-x86-64.so.2" --set-rpath "$lib" "$pkg/$program"
  done
  version=$(dpkg-deb -f "$work"/download/apptainer_*.deb Version)~local1
  sed -i -e "s/^Version: .*/Version: $version/" -e '/^Depends:/s/libc6 (>= [^)]*)/libc6/' "$pkg/DEBIAN/control"
  (cd "$pkg" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  dpkg-deb -Zgzip -z1 --root-owner-group -b "$pkg" "$cache/apptainer_${version}_amd64.deb" >/dev/null
  rm -rf "$work"
}

if ! [ -x /usr/bin/apptainer ]; then
  "${apt[@]}" update
  package=apptainer
  if ! apt-cache show apptainer >/dev/null 2>&1; then
    [ "$(dpkg --print-architecture)" = amd64 ] || { echo "setup_apptainer.sh: no package for this machine" >&2; exit 2; }
    ls "$cache"/apptainer_*~local1_amd64.deb >/dev/null 2>&1 || repack
    package=$(find "$cache" -name 'apptainer_*~local1_amd64.deb' | sort | tail -n 1)
  fi
  # with squashfuse and fuse-overlayfs a user who is not root runs images, too
  "${apt[@]}" install -y --no-install-recommends "$package" \
    uidmap e2fsprogs fuse2fs squashfuse fuse-overlayfs fakeroot >/dev/null
fi
command -v debootstrap >/dev/null || "${apt[@]}" install -y --no-install-recommends debootstrap >/dev/null

# Some virtual machines and CI sandboxes need two words more; an ordinary machine does not notice them.
# /dev/fuse for everybody, as udev would have it:
[ -c /dev/fuse ] && chmod 0666 /dev/fuse
# Root without CAP_SYS_RESOURCE: Apptainer as root asks for every capability, and is refused.  Images are built in a
# user namespace (--fakeroot, which needs subordinate ids), where root has them all; for exec, run and test a wrapper
# that comes first in PATH drops the one.
for ids in /etc/subuid /etc/subgid; do
  grep -q '^root:' "$ids" 2>/dev/null || echo root:1000000:65536 >>"$ids"
done
permitted=$(sed -n 's/^CapPrm:[[:space:]]*//p' /proc/self/status)
if [ $(((0x$permitted >> 24) & 1)) = 0 ] && ! [ -e /usr/local/bin/apptainer ]; then
  cat >/usr/local/bin/apptainer <<'WRAPPER'
#!/bin/sh
# root here lacks CAP_SYS_RESOURCE: don't ask for it
[ "$(id -u)" = 0 ] && export APPTAINER_DROP_CAPS="${APPTAINER_DROP_CAPS:-CAP_SYS_RESOURCE}"
exec /usr/bin/apptainer "$@"
WRAPPER
  chmod 755 /usr/local/bin/apptainer
fi
apptainer --version
