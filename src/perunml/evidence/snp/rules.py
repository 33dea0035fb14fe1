"""What an agreement writes of an SEV-SNP guest. What it leaves out has the strictest meaning that there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perunml.evidence.snp.parse import PARTS
from perunml.evidence.tee.rules import (
    DURATION,
    EMPTY_TABLE,
    FLAG,
    Rules,
    hex_set,
    hex_value,
    number,
    rule,
    table,
    words,
)


def _part(name: str) -> str:
    if name not in PARTS:
        raise ValueError(name)
    return name


@dataclass(frozen=True, slots=True)
class SnpRules(Rules):
    """Which guests are admitted. `measurement`, `products` and `min_tcb` must be said; never one with debugging or a migration
    agent, and only at VMPL 0.

    measurement   launch digests, of which one must be there
    products      product lines: Genoa, Milan, Turin
    min_tcb       least version of each part of the firmware: bootloader, tee, snp, microcode (fmc: Turin); it binds the reported, the
                  committed and the launch TCB
    host_data     zeros by default
    id_keys       digests of the keys that may have signed the guest's identity block; by default there may be none
    author_keys   digests of the keys that may have signed those keys; by default there may be none
    family_id, image_id   zeros by default
    min_guest_svn
    min_abi       least ABI version that the policy demands of the firmware, as ``1.55``: major * 256 + minor
    vlek          the cloud's key may have signed (then nothing tells which chip it is)
    smt           simultaneous multithreading may be on
    cxl           the guest's policy may allow devices and memory on CXL
    platform_info bits that must be set (ECC 4, alias check 32, …)
    single_socket, aes_256_xts, rapl_disabled, ciphertext_hiding, page_swap_disabled   what the guest's policy must demand of
                  the platform: one socket, memory encryption with AES-256-XTS, no power meter (RAPL), ciphertext hidden from
                  the host, no swapping of the guest's pages
    mitigations   bits that the launch mitigation vector must have (version 5)
    chips         which chips, as `platform` in the claims (``chip:sha256:…``); by default any that is enrolled
    max_age       of the revocation list, since it was issued
    """

    measurement: frozenset[str] = rule(hex_set(48), frozenset())
    products: frozenset[str] = rule(words("Milan|Genoa|Turin", "product lines (Genoa, Milan, Turin)"), frozenset())
    min_tcb: Mapping[str, int] = rule(table(_part, number(255)), EMPTY_TABLE)
    host_data: str = rule(hex_value(32), "00" * 32)
    id_keys: frozenset[str] = rule(hex_set(48), frozenset())
    author_keys: frozenset[str] = rule(hex_set(48), frozenset())
    family_id: str = rule(hex_value(16), "00" * 16)
    image_id: str = rule(hex_value(16), "00" * 16)
    min_guest_svn: int = rule(number(), 0)
    min_abi: int = rule(number(65535), 0)
    vlek: bool = rule(FLAG, False)
    smt: bool = rule(FLAG, False)
    cxl: bool = rule(FLAG, False)
    platform_info: int = rule(number(255), 0)
    single_socket: bool = rule(FLAG, False)
    aes_256_xts: bool = rule(FLAG, False)
    rapl_disabled: bool = rule(FLAG, False)
    ciphertext_hiding: bool = rule(FLAG, False)
    page_swap_disabled: bool = rule(FLAG, False)
    mitigations: int = rule(number(), 0)
    chips: frozenset[str] = rule(words("chip:sha256:[0-9a-f]{64}", "chips (chip:sha256:…)"), frozenset())
    max_age: str = rule(DURATION, "")
