#!/usr/bin/env bash
# The tests with the newest Python and libraries that setup.py allows, in a Debian 13
# folder that is left behind for another run; needs root and debootstrap.
#
#   tools/test_newest.sh FOLDER [pytest's arguments; default: the whole suite]
#
# Without PyTorch: tests that compare with it skip. MIRROR names a Debian mirror; pip
# is configured as outside (/etc/pip.conf, PIP_*). Some 4 GB; two minutes, then the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { echo "usage: tools/test_newest.sh FOLDER [pytest's arguments]" >&2; exit 2; }
root=$(realpath -m "$1")
shift
command -v debootstrap >/dev/null || {
  echo "test_newest: debootstrap is not installed. apt-get install debootstrap" >&2
  exit 2
}

if [ ! -e "$root/complete" ]; then
  if [ -e "$root" ] && [ -n "$(ls -A "$root")" ]; then
    echo "test_newest: $root is not empty and not from a finished run. Name another." >&2
    exit 2
  fi
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,git \
    trixie "$root" ${MIRROR:+"$MIRROR"}
  touch "$root/complete"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
# Certificates as outside, for networks behind a proxy with one of its own.
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e "$certificates" ]; then cp "$certificates" "$root$certificates"; fi
if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$root/etc/pip.conf"; fi

rm -rf "$root/src"
mkdir "$root/src"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$root/src"

unmount() {
  for name in dev proc; do umount "$root/$name" 2>/dev/null || true; done
}
trap unmount EXIT
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"

PYTHONHASHSEED=0 JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 HOME=/root \
  nice -n 19 chroot "$root" /bin/bash -euo pipefail -c '
    cd /src
    [ -d /venv ] || python3 -m venv /venv
    . /venv/bin/activate
    python --version
    pip install --quiet --upgrade --upgrade-strategy eager -e . \
      pytest pytest-timeout pytest-xdist scipy tifffile matplotlib scikit-image
    pip list 2>/dev/null | grep -E "^(jax|flax|optax|orbax|grain|numpy) ?"
    # A warning of a library that is newer than ours is no fault of this run.
    python -m pytest -q -n 2 --dist loadfile "$@"' bash "$@"
