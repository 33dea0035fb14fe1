#!/usr/bin/env bash
# Makes .venv with everything that make demo, make test and make bench need. Safe to run again: what is there stays.
# Debian packages by apt-get (as root or with sudo), Python packages from requirements/lock.txt by hash, torch by version.
set -euo pipefail
cd "$(dirname "$0")/.."

# With IMAGES=1 also what building machine images and booting them takes: `make image`, `make test-vm`.
PACKAGES="bubblewrap swtpm swtpm-tools libtss2-dev libtss2-tcti-swtpm0 libseccomp2 pkg-config gcc python3-dev python3-venv erofs-utils squashfs-tools"
IMAGE_PACKAGES="mmdebstrap erofs-utils cryptsetup-bin systemd-boot-efi binutils sbsigntool mtools dosfstools fdisk e2fsprogs cpio zstd lz4 faketime openssl"
VM_PACKAGES="qemu-system-x86 ovmf"
PYTHON=${PYTHON:-python3}
[ -z "${IMAGES:-}" ] || PACKAGES="$PACKAGES $IMAGE_PACKAGES $VM_PACKAGES"

missing=""
for package in $PACKAGES; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "setup: installing Debian packages:$missing"
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root="sudo"
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

stamp=.venv/.perunml-setup
wanted=$(cat requirements/lock.txt requirements/torch.txt pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check --quiet install"
echo "setup: installing Python packages (locked by hash)"
$pip --require-hashes -r requirements/lock.txt
$pip --no-deps --no-build-isolation -e .
echo "setup: installing $(cat requirements/torch.txt)"
.venv/bin/python -m pip freeze --exclude-editable > .venv/constraints.txt
$pip -c .venv/constraints.txt -r requirements/torch.txt
echo "$wanted" > "$stamp"
