#!/usr/bin/env bash
# Builds a machine image, reproducibly: the same packages give the same bytes.
#
#   images/build.sh --out FOLDER [--role host|manager] [--layer FOLDER]... [--keys FOLDER] [--cmdline WORDS] [--version TEXT]
#
# --out      a new folder: disk.raw (what a machine boots), uki.efi (kernel, initrd and command line, signed), root.img (EROFS and
#            its hash tree), image.json (what it is), packages (Debian packages and versions), keys/ (certificates)
# --role     the one service of the machine [default: host]
# --layer    a folder with `packages`, `requirements.txt`, `files/` and `customize`, each if there; again for each
# --keys     Secure Boot keys, as images/keys.sh makes them [default: unsigned, for a firmware without Secure Boot]
# --cmdline  words added to the kernel's command line
#
# Wants root, and Debian's mmdebstrap, erofs-utils, cryptsetup-bin, systemd-boot-efi, binutils, sbsigntool, mtools, dosfstools,
# fdisk, cpio, busybox-static's own package comes with the root. The packages come from this machine's own APT sources, or from
# the sources.list in $PERUNML_APT_SOURCES: name a snapshot there to build what somebody else built.
set -euo pipefail
export LC_ALL=C TZ=UTC PYTHONHASHSEED=0
umask 022
here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")

out='' role=host keys='' extra='' version='' layers=()
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2 ;; --role) role=$2 ;; --layer) layers+=("$(cd "$2" && pwd)") ;; --keys) keys=$(cd "$2" && pwd) ;;
        --cmdline) extra=$2 ;; --version) version=$2 ;;
        *) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
    esac
    shift 2
done
[ -n "$out" ] && [ -d "$here/$role" ] || { echo "images/build.sh: --out FOLDER, and --role host or manager" >&2; exit 2; }
[ ! -e "$out" ] || { echo "images/build.sh: $out is there already; nothing is overwritten" >&2; exit 1; }
for tool in mmdebstrap mkfs.erofs veritysetup objcopy objdump mformat mcopy sfdisk cpio ${keys:+sbsign}; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || { echo "images/build.sh: \`$tool\` is missing; tools/setup.sh --images installs what a build needs" >&2; exit 1; }
done
export PATH=$PATH:/usr/sbin:/sbin
# Files are as old as the commit; outside of a checkout, as the project's first.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$project" log -1 --format=%ct 2>/dev/null || echo 1767225600)}
version=${version:-$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$project/src/perunml/__init__.py")}

work=$(mktemp -d "${TMPDIR:-/tmp}/perunml-image-XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
parts=("$here/base" "$here/$role" "${layers[@]}")
say() { printf '%(%H:%M:%S)T image: %s\n' -1 "$*"; }

site=$root/usr/local/lib/python3.11/dist-packages
python=${PERUNML_IMAGE_PYTHON:-/usr/bin/python3}
unpack() {
say "Debian packages"
packages=$(for part in "${parts[@]}"; do [ ! -f "$part/packages" ] || sed 's/#.*//' "$part/packages"; done | tr -s ' \n' ',' | sed 's/^,//; s/,$//')
sources=${PERUNML_APT_SOURCES:-}
if [ -z "$sources" ]; then
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do [ ! -s "$file" ] || sources=$file; done
fi
# Unpacked, not configured: no maintainer script leaves a random or dated byte, and what they would set up is in files/.
mmdebstrap --quiet --variant=extract --format=directory --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --extract-hook='find "$1/var/cache/apt/archives" -name "*.deb" -printf "%f\n" | sort > '"$work/packages" \
    --include="$packages" --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$root" "$sources" 2> "$work/mmdebstrap.log" || { cat "$work/mmdebstrap.log" >&2; exit 1; }
[ -s "$work/packages" ]

say "Python packages"
"$python" -m venv --system-site-packages "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }
for part in "${parts[@]}"; do
    [ ! -f "$part/requirements.txt" ] || pip install --no-compile --no-deps --require-hashes --target "$site" --upgrade -r "$part/requirements.txt"
done
}
# With PERUNML_IMAGE_CACHE=FOLDER what was unpacked once is taken again, for tests that build several images of the same day.
cache=${PERUNML_IMAGE_CACHE:-}
if [ -n "$cache" ]; then
    mkdir -p "$cache"
    kept=$cache/$(for part in "${parts[@]}"; do cat "$part/packages" "$part/requirements.txt" 2>/dev/null || true; done | sha256sum | cut -c 1-16)
    if [ ! -f "$kept.tar" ]; then
        unpack
        cp "$work/packages" "$kept.packages"
        tar -C "$work" -cf "$kept.tar.part" root && mv "$kept.tar.part" "$kept.tar"
    else
        say "packages, as they were unpacked before"
        tar -C "$work" -xf "$kept.tar"
        cp "$kept.packages" "$work/packages"
    fi
else
    unpack
fi
cp -r "$project/src/perunml" "$site/perunml"
find "$site" -depth \( -name __pycache__ -o -name tests -o -name bin \) -exec rm -rf {} +
# What was compiled here loses what names this machine; wheels come as they are.
find "$site/tpm2_pytss" -name '*.so' -exec strip --strip-unneeded --remove-section=.note.gnu.build-id {} + 2>/dev/null || true
rm -f "$site"/*.dist-info/{RECORD,INSTALLER,REQUESTED,direct_url.json}

say "files"
vmlinuz=$work/vmlinuz
cp "$root"/boot/vmlinuz-* "$vmlinuz"
for part in "${parts[@]}"; do [ ! -d "$part/files" ] || cp -a "$part/files/." "$root/"; done
while read -r pattern; do
    case $pattern in ''|'#'*) ;; *) for path in $root/$pattern; do [ ! -e "$path" ] && [ ! -L "$path" ] || rm -rf "$path"; done ;; esac
done < "$here/base/remove"
for part in "${parts[@]}"; do [ ! -d "$part/files" ] || cp -a "$part/files/." "$root/"; done
for part in "${parts[@]}"; do [ ! -x "$part/customize" ] || "$part/customize" "$root"; done
mkdir -p "$root"/{proc,sys,run,dev,tmp,var/lib/perunml}
printf 'perunml %s\n' "$version" > "$root/etc/perunml-image"
for applet in sh ash mount umount insmod modprobe mknod ip udhcpc find xargs cat sort uniq poweroff sleep sed; do
    [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done
find "$root" -xdev -perm /6000 -exec chmod a-s {} +
ldconfig -r "$root" -X 2>/dev/null; ldconfig -r "$root"
rm -rf "$root/var/cache/ldconfig"
kernel=$(ls "$root/usr/lib/modules" 2>/dev/null || ls "$root/lib/modules"); [ "$(wc -w <<< "$kernel")" = 1 ]
chroot "$root" /usr/sbin/depmod "$kernel"
rm -f "$root/usr/lib/modules/$kernel/"{build,source}
# Byte code that says "do not look at the source's time": valid under clamped timestamps, and what the parties' baseline lists.
"$python" -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$root" -p / "$root/usr/lib/python3" "$root/usr/lib/python3.11" "$site" >/dev/null || true

say "root: EROFS, and a hash tree after it"
find "$root" -xdev -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
chown -hR 0:0 "$root"
mkdir "$out"
image=$out/root.img
mkfs.erofs -zlz4hc,9 -C65536 -T"$SOURCE_DATE_EPOCH" -U00000000-0000-0000-0000-000000000000 -x-1 "$image" "$root" > "$work/erofs.log" 2>&1 || { cat "$work/erofs.log" >&2; exit 1; }
blocks=$((($(stat -c %s "$image") + 4095) / 4096))
truncate -s $((blocks * 4096)) "$image"
roothash=$(veritysetup format --no-superblock --hash=sha256 --salt=- --data-blocks=$blocks --hash-offset=$((blocks * 4096)) "$image" "$image" \
    | sed -n 's/^Root hash:[[:space:]]*//p')
[ ${#roothash} = 64 ]

say "initrd"
initrd=$work/initrd
mkdir -p "$initrd"/{usr/bin,usr/lib,usr/lib64,proc,sys,dev,lib/modules,sysroot}
for link in bin lib64; do ln -s "usr/$link" "$initrd/$link"; done
cp "$here/base/initrd/init" "$initrd/init"
cp "$root/usr/bin/busybox" "$initrd/usr/bin/busybox"
for applet in sh mount mkdir mknod cat cut grep basename dirname sleep insmod switch_root sed echo; do ln -s busybox "$initrd/usr/bin/$applet"; done
cp "$root/usr/sbin/dmsetup" "$initrd/usr/bin/dmsetup"
cp "$root/usr/lib64/ld-linux-x86-64.so.2" "$initrd/usr/lib64/"
for library in $(chroot "$root" /usr/lib64/ld-linux-x86-64.so.2 --list /usr/sbin/dmsetup | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p'); do cp -L "$root$library" "$initrd/usr/lib/"; done
# The modules named, after those that each needs.
sed 's/#.*//' "$here/base/modules" | while read -r module; do
    [ -z "$module" ] || chroot "$root" /usr/sbin/modprobe -S "$kernel" --show-depends "$module" 2>/dev/null || true
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r file; do
    cp "$root$file" "$initrd/lib/modules/"; basename "$file"
done > "$work/order"
mv "$work/order" "$initrd/lib/modules/order"
find "$initrd" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$initrd" && find . -mindepth 1 | sort | cpio --quiet --reproducible -H newc -R 0:0 -o) | zstd -q -19 > "$work/initrd.zst"

say "unified kernel image"
stub=${PERUNML_STUB:-/usr/lib/systemd/boot/efi/linuxx64.efi.stub}
cmdline="roothash=$roothash perunml.blocks=$blocks ro ima_policy=tcb ima_template=ima-ng ima_hash=sha256 lockdown=confidentiality"
cmdline="$cmdline init_on_alloc=1 slab_nomerge vsyscall=none panic=5 oops=panic random.trust_cpu=on console=ttyS0 quiet${extra:+ $extra}"
printf '%s' "$cmdline" > "$work/cmdline"
printf 'ID=perunml\nNAME=Perun\nVERSION_ID=%s\nPRETTY_NAME="Perun %s %s"\n' "$version" "$role" "$version" > "$work/osrel"
printf '%s' "$kernel" > "$work/uname"
# Each section on a page of its own, after the stub's last one.
place=0
while read -r size vma; do end=$((0x$size + 0x$vma)); [ $end -le $place ] || place=$end; done \
    < <(objdump -h "$stub" | awk 'NF == 7 && $2 ~ /^\./ { print $3, $4 }')
sections=()
for pair in .osrel:"$work/osrel" .cmdline:"$work/cmdline" .uname:"$work/uname" .linux:"$vmlinuz" .initrd:"$work/initrd.zst"; do
    place=$(((place + 4095) / 4096 * 4096))
    sections+=(--add-section "${pair%%:*}=${pair#*:}" --change-section-vma "${pair%%:*}=$(printf '0x%x' "$place")")
    place=$((place + $(stat -c %s "${pair#*:}")))
done
objcopy "${sections[@]}" "$stub" "$work/uki.efi"
if [ -n "$keys" ]; then
    # the signature holds a time; nothing else about it varies
    faketime -f "@$(date -d "@$SOURCE_DATE_EPOCH" '+%F %T')" sbsign --key "$keys/db.key" --cert "$keys/db.crt" --output "$out/uki.efi" "$work/uki.efi" 2> "$work/sbsign.log" \
        || { cat "$work/sbsign.log" >&2; exit 1; }
    mkdir "$out/keys"; cp "$keys"/{PK,KEK,db}.crt "$keys/owner" "$keys/dbx.esl" "$out/keys/"
else
    cp "$work/uki.efi" "$out/uki.efi"
fi

say "disk"
"$here/disk.sh" "$out/uki.efi" "$image" "$roothash" "$out/disk.raw"
mv "$work/packages" "$out/packages"
cat > "$out/image.json" <<JSON
{"version": "$version", "role": "$role", "kernel": "$kernel", "roothash": "$roothash", "blocks": $blocks, "cmdline": "$cmdline", "source_date_epoch": $SOURCE_DATE_EPOCH}
JSON
say "done: $out/disk.raw, $(($(stat -c %s "$out/disk.raw") / 1048576)) MiB; golden values: perunml image golden $out"
