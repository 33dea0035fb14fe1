"""What an agreement writes of an SGX enclave or a TDX domain. What it leaves out has the strictest meaning that there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perunml.evidence.rules import BootRules
from perunml.evidence.tee.rules import (
    DURATION,
    EMPTY_TABLE,
    Form,
    Rules,
    hex_set,
    hex_value,
    number,
    numbers,
    rule,
    table,
    words,
)

UP_TO_DATE = frozenset({"UpToDate"})
STATUSES = (
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
    "OutOfDateConfigurationNeeded", "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded",
)  # fmt: skip
"""What rules may admit; ``Revoked`` is none of them (Intel PCS API version 4, tcbStatus)."""
_STATUSES = words("|".join(STATUSES), "TCB statuses")
_ADVISORIES = words("INTEL-SA-[0-9]{5}", "advisories")
SEPT_VE_ONLY = "0000001000000000"
"""TDATTRIBUTES with SEPT_VE_DISABLE (bit 28) and nothing else, little-endian."""
REGISTERS = range(4)


def _register(name: str) -> int:
    if name not in ("0", "1", "2", "3"):
        raise ValueError(name)
    return int(name)


@dataclass(frozen=True, slots=True)
class SgxRules(Rules):
    """Which enclaves are admitted. One of `mr_enclave`, or `mr_signer` with `product_id`, must be said; never one in debug
    mode.

    mr_enclave          measurements, of which one must be there
    mr_signer           or the signer's, with product_id and at least min_svn
    statuses            TCB statuses that are admitted
    denied_advisories   advisories that must not apply
    min_tcb_evaluation  least tcbEvaluationDataNumber of the collateral
    max_age             of the collateral, since its oldest part was issued
    config_id           CONFIGID (64 bytes) and config_svn: zeros, where key separation and sharing is not used
    family_id, ext_product_id  zeros by default
    """

    mr_enclave: frozenset[str] = rule(hex_set(32), frozenset())
    mr_signer: str = rule(hex_value(32), "")
    product_id: int = rule(number(65535), -1)
    min_svn: int = rule(number(65535), -1)
    statuses: frozenset[str] = rule(_STATUSES, UP_TO_DATE)
    denied_advisories: frozenset[str] = rule(_ADVISORIES, frozenset())
    min_tcb_evaluation: int = rule(number(), 0)
    max_age: str = rule(DURATION, "")
    config_id: str = rule(hex_value(64), "00" * 64)
    config_svn: int = rule(number(65535), 0)
    family_id: str = rule(hex_value(16), "00" * 16)
    ext_product_id: str = rule(hex_value(16), "00" * 16)


def _boot(data: Any) -> BootRules:
    found = BootRules.from_json(data)
    if found.open:
        raise ValueError  # PCRs; the registers of a domain are RTMRs, and `open` beside `boot` names them
    return found


_BOOT = Form(_boot, BootRules.as_json, "rules for the event log, without `open`")


@dataclass(frozen=True, slots=True)
class TdxRules(Rules):
    """Which trust domains are admitted. `mr_td` must be said, and each RTMR must be exact, explained by `boot`, or `open`; never
    one in debug mode or with a service domain.

    mr_td           measurements of the initial memory (virtual firmware)
    rtmrs           register -> values, of which one must be there
    boot            what the event log (CCEL) must show where a register has no exact value; as for a TPM's boot log
    open            registers that are not looked at
    mr_seam         the TDX module; by default any that Intel signed (MRSIGNERSEAM zero) and rates
    td_attributes   TDATTRIBUTES, of which one must be there (8 bytes, little-endian)
    xfam            extended features, any of these; by default whatever the domain uses
    mr_config_id, mr_owner, mr_owner_config   zeros by default
    statuses, denied_advisories, min_tcb_evaluation, max_age   as for SGX
    """

    mr_td: frozenset[str] = rule(hex_set(48), frozenset())
    rtmrs: Mapping[int, frozenset[str]] = rule(table(_register, hex_set(48)), EMPTY_TABLE)
    boot: BootRules | None = rule(_BOOT, None)
    open: frozenset[int] = rule(numbers(3), frozenset())
    mr_seam: frozenset[str] = rule(hex_set(48), frozenset())
    td_attributes: frozenset[str] = rule(hex_set(8), frozenset({SEPT_VE_ONLY}))
    xfam: frozenset[str] = rule(hex_set(8), frozenset())
    mr_config_id: str = rule(hex_value(48), "00" * 48)
    mr_owner: str = rule(hex_value(48), "00" * 48)
    mr_owner_config: str = rule(hex_value(48), "00" * 48)
    statuses: frozenset[str] = rule(_STATUSES, UP_TO_DATE)
    denied_advisories: frozenset[str] = rule(_ADVISORIES, frozenset())
    min_tcb_evaluation: int = rule(number(), 0)
    max_age: str = rule(DURATION, "")
