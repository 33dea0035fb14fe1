#!/usr/bin/env bash
# Makes Secure Boot keys of one's own: images/keys.sh FOLDER
# Platform key, key exchange key and the key that signs images, each a self-signed RSA-2048 certificate. Their private halves
# sign what boots: keep them where the machine that builds images is kept.
set -euo pipefail
folder=$1
mkdir -m 700 "$folder"
cd "$folder"
for name in PK KEK db; do
    openssl req -x509 -newkey rsa:2048 -nodes -sha256 -days 36500 -subj "/CN=Perun image $name/" -keyout "$name.key" -out "$name.crt" 2>/dev/null
done
chmod 600 ./*.key
cat /proc/sys/kernel/random/uuid > owner
# A revocation list of one hash that no image has (SHA-256 of nothing), as firmware tools set it up so that the variable exists.
# EFI_SIGNATURE_LIST: EFI_CERT_SHA256_GUID, sizes, the owner, the hash (UEFI 2.10, 32.4.1).
printf '%s' 2616c4c14c509240aca941f9369343284c0000000000000030000000a3a8baa01d04a848bc87c36d121b5e3d \
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 | tr a-f A-F | basenc -d --base16 > dbx.esl
