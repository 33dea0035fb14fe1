#!/usr/bin/env bash
# Makes an operator's disk for a machine: images/data.sh FOLDER DISK [SIZE]
# FOLDER's files (host.yaml or manager's, pin.json; docs/operator.md) on a partition that the machine finds by its name, and
# whose file system the IMA policy knows by its id: what lies there is data, mounted noexec. SIZE is 64M by default.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
folder=$1 disk=$2 size=${3:-64M}
FSUUID=5045524e-4d4c-4441-5441-000000000001  # "PERNMLDATA"; also in base/files/etc/ima/ima-policy
[ ! -e "$disk" ] || { echo "images/data.sh: $disk is there already; nothing is overwritten" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/perunml-data-XXXXXX")
trap 'rm -rf "$work"' EXIT
truncate -s "$size" "$work/fs"
mke2fs -q -t ext4 -U "$FSUUID" -E root_owner=0:0 -d "$folder" "$work/fs"
sectors=$(($(stat -c %s "$work/fs") / 512))
truncate -s $((sectors * 512 + 2 * 1048576)) "$disk"
chmod 600 "$disk"
printf 'label: gpt\nfirst-lba: 2048\nstart=2048, size=%s, type=linux, name=perunml-data\n' "$sectors" | sfdisk --quiet "$disk"
dd if="$work/fs" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
