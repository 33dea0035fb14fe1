#!/usr/bin/env bash
# Puts a unified kernel image and a root with its hash tree on a disk: images/disk.sh UKI ROOT ROOTHASH DISK
# A GPT with an EFI system partition and the root, which the initrd finds by its name. Nothing on the disk is trusted: the
# firmware checks and measures the first, the kernel the second.
set -euo pipefail
export LC_ALL=C TZ=UTC PATH=$PATH:/usr/sbin:/sbin
uki=$1 image=$2 roothash=$3 disk=$4
SECTORS=2048  # of 512 bytes: partitions begin at whole MiB
work=$(mktemp -d "${TMPDIR:-/tmp}/perunml-disk-XXXXXX")
trap 'rm -rf "$work"' EXIT
mib() { echo $((($1 + 1048575) / 1048576)); }

esp=$(($(mib "$(stat -c %s "$uki")") + 8)); [ $esp -ge 40 ] || esp=40
truncate -s "${esp}M" "$work/esp"
mkfs.fat -F 32 -s 1 -n PERUNML -i "${roothash:0:8}" --invariant "$work/esp" >/dev/null
when=$(date -d "@${SOURCE_DATE_EPOCH:-1767225600}" '+%F %T')
faketime -f "@$when" mmd -i "$work/esp" ::/EFI ::/EFI/BOOT
faketime -f "@$when" mcopy -i "$work/esp" "$uki" ::/EFI/BOOT/BOOTX64.EFI

root=$(mib "$(stat -c %s "$image")")
truncate -s $((esp + root + 2))M "$disk"
uuid() { local h; h=$(printf '%s %s' "$1" "$roothash" | sha256sum); echo "${h:0:8}-${h:8:4}-4${h:13:3}-8${h:17:3}-${h:20:12}"; }
sfdisk --quiet "$disk" <<TABLE
label: gpt
label-id: $(uuid disk)
first-lba: $SECTORS
start=$SECTORS, size=$((esp * SECTORS)), type=uefi, name=perunml-esp, uuid=$(uuid esp)
start=$(((esp + 1) * SECTORS)), size=$((root * SECTORS)), type=linux, name=perunml-${roothash:0:16}, uuid=$(uuid root)
TABLE
dd if="$work/esp" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$image" of="$disk" bs=1M seek=$((esp + 1)) conv=notrunc,sparse status=none
