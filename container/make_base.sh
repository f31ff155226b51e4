#!/bin/bash
# A minimal Debian as an image, to build from where Docker Hub cannot be reached (as root):
#
#     container/make_base.sh OUT.sif [SUITE]
#
# It stands in for Docker Hub's debian:SUITE-slim and is made of Debian's packages, from the machine's own mirror.
# The machine's extra certificate authorities come along, so that apt and pip work inside as they do outside.
# For builds on this machine, not for publishing.
set -euo pipefail

out=${1:?usage: make_base.sh OUT.sif [SUITE]}
suite=${2:-trixie}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1 || true)
# quietly COMMAND...: what it says is of interest only if it fails
quietly() {
  "$@" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    echo "make_base.sh: ${1##*/} has failed" >&2
    exit 1
  }
}
quietly debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/root" \
  "${mirror:?no Debian mirror in the sources of apt}"
authorities=/usr/local/share/ca-certificates
if compgen -G "$authorities/*.crt" >/dev/null; then
  cp "$authorities"/*.crt "$work/root$authorities/"
  # this machine's TMPDIR need not be a folder in there
  quietly env -u TMPDIR chroot "$work/root" update-ca-certificates
fi
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/root/etc/pip.conf"
# device nodes cannot be unpacked in a user namespace; Apptainer brings the machine's own
find "$work/root/dev" -mindepth 1 -delete
rm -rf "$work/root"/var/cache/apt/archives/*.deb "$work/root"/var/lib/apt/lists/*
apptainer build --force --mksquashfs-args '-comp zstd -Xcompression-level 3' "$out" "$work/root"
