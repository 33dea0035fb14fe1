"""`check_tpm`, `check_event_log`, `check_ima` on whole cases of real evidence and on forged: what is proven, what is refused."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evidence.vectors import FOLDER, needs_vectors
from perunml.client.baselines import Rules, Sources, build_baseline
from perunml.evidence.baseline import Baseline
from perunml.evidence.offline.check import TpmFiles, check_event_log, check_ima, check_tpm
from perunml.evidence.offline.findings import Checked
from perunml.evidence.rules import BootRules, ImaRules
from perunml.evidence.tpm.attest import parse_attest

pytestmark = needs_vectors

VM = FOLDER / "measured-vm"
PHYSICAL = FOLDER / "tpm-quote" / "immune-gmbh__guard-oss"
NOW = 1_795_500_000
"""2026-11-24: within the vectors' certificates."""
CASES = [
    "A61", "B61-ima-ng", "C61-nobody", "D61-violation", "F61-policy", "H612-3banks", "M612-uki", "N612-uki-secureboot",
    "R612-verity",
]  # fmt: skip
QUOTES = {"ecc": ("ecc", "ima.bin"), "rsa": ("rsa", "ima_after_rsa.bin"), "both": ("ecc", "ima_after_rsa.bin")}
"""Quote: its attestation key, and the log that was read after it."""
TAMPERED = {
    "t01-ima-drop-entry": {"pcr10_mismatch", "pcr_digest"},
    "t02-ima-digest-changed": {"ima_template_hash", "pcr10_mismatch", "pcr_digest"},
    "t03-ima-digest-changed-consistent": {"pcr10_mismatch", "pcr_digest"},
    "t04-ima-swap": {"pcr10_mismatch", "pcr_digest"},
    "t05-ima-truncated": {"non_canonical"},
    "t06-ima-extra-tail": set[str](),
    "t07-ima-empty": {"pcr10_mismatch", "pcr_digest"},
    "t08-ima-huge-len": {"non_canonical"},
    "t10-ima-fake-violation": {"pcr10_mismatch", "pcr_digest"},
    "t11-bios-digest": {"boot_aggregate", "pcr_digest"},
    "t18-quote-nonce-edited": {"binding_mismatch", "quote_signature"},
    "t20-sig-flipped": {"quote_signature"},
}


def files_of(folder: Path, quote: str = "ecc", *, pem: bool = False, **changes: object) -> TpmFiles:
    """One quote of a case, with everything that belongs to it."""
    key, log = QUOTES[quote]

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    found: dict[str, object] = {
        "attest": read(f"quote_{quote}.msg"),
        "signature": read(f"quote_{quote}.sig"),
        "ak": read(f"ak_{key}.pub.pem" if pem else f"ak_{key}.tpm2b_public"),
        "nonce": bytes.fromhex(read("nonce.hex").decode().strip()),
        "event_log": read("bios_measurements.bin"),
        "ima": read(log),
        "ek_certificate": read("ek_rsa.crt.der"),
        "authorities": authorities(),
    }
    return TpmFiles(**{**found, **changes})  # type: ignore[arg-type]  # a call's members by name


def authorities() -> list[bytes]:
    return [path.read_bytes() for path in sorted((VM / "ca").iterdir())]


def codes(checked: Checked) -> set[str]:
    return {reason.code for reason in checked.reasons}


def baseline_of(case: str, rules: Rules = Rules()) -> Baseline:  # noqa: B008 - frozen
    """As `perunml baseline build` makes it of that boot's logs."""
    folder = VM / case
    logs = Sources(ima_log=(folder / "ima.bin").read_bytes(), event_log=(folder / "bios_measurements.bin").read_bytes())
    return build_baseline(logs, rules).baseline


@pytest.mark.parametrize("pem", [False, True], ids=["tpm2b", "pem"])
@pytest.mark.parametrize("quote", list(QUOTES))
@pytest.mark.parametrize("case", CASES)
def test_a_genuine_quote_is_accepted_without_a_policy(case: str, quote: str, pem: bool) -> None:
    """Q32: signature, names, EK's chain, both logs to the quoted PCRs; no values given. What only a policy can judge
    (unmeasured code, violations, a late policy) is told as claims."""
    expected = json.loads((VM / case / "expected.json").read_text())
    found = check_tpm(files_of(VM / case, quote, pem=pem), now=NOW)
    assert (found.accepted, found.reasons) == (True, ())
    ima, boot, ek = (found.claims[name] for name in ("ima", "boot", "ek"))
    assert (ima["entries"], ima["violations"]) == (expected["ima_entries"], expected["violations"])
    assert boot["banks"] == expected["boot_banks"]
    assert ek["names_ek"]
    pcrs = found.claims["pcrs"]["sha256"]
    assert {i: v for i, v in pcrs.items() if i != "10"} == {
        i: v for i, v in expected["pcrs_sha256"].items() if i != "10"
    }
    if quote == "ecc":
        assert ima["covered"] == expected["ima_entries_covered_by_quote"]
        assert found.claims["quote"]["pcr_digest"] == expected["pcr_digest"]
        assert found.claims["quote"]["reset_count"] == expected["clock"]["resetCount"]


def test_the_tampered_corpus_is_whole() -> None:
    """Every tampered case has its expectation here."""
    assert {path.name for path in (VM / "tampered").iterdir()} == set(TAMPERED)


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_case_is_refused(case: str) -> None:
    """Each variant of A61 with all its codes, and no more; a line after the quoted prefix is told and not proven."""
    found = check_tpm(files_of(VM / "tampered" / case), now=NOW)
    assert codes(found) == TAMPERED[case]
    if found.accepted:
        assert found.claims["ima"]["covered"] == found.claims["ima"]["entries"] - 1
    elif "quote_signature" not in codes(found):
        assert found.claims["pcrs"] is None


def test_a_profile_of_an_honest_boot_accepts_it_and_refuses_the_bad_ones() -> None:
    """The verdicts of expected.json, by a profile made of A61 that demands the training script."""
    profile = baseline_of("A61", Rules(ima=ImaRules(require=frozenset({"/opt/perun/train.py"}))))
    assert check_tpm(files_of(VM / "A61"), now=NOW, baseline=profile).accepted
    for case in CASES[1:]:
        assert not check_tpm(files_of(VM / case), now=NOW, baseline=profile).accepted, case


@pytest.mark.parametrize("case", [case for case in CASES if case[0] not in "CDF"])
def test_a_profile_of_its_own_boot_accepts_each_honest_case(case: str) -> None:
    """No wrong refusal."""
    found = check_tpm(files_of(VM / case), now=NOW, baseline=baseline_of(case))
    assert (found.accepted, found.reasons) == (True, ())


def test_i21_a_profile_of_words_and_paths_refuses_the_gap_and_the_unmeasured_script() -> None:
    """I21, I29: each machine by a profile of its own boot that demands the IMA policy on the measured command line and the
    training script in the log. A late policy and an unmeasured script are refused, whatever else was agreed."""
    rules = Rules(
        BootRules(cmdline=frozenset({"ima_policy=tcb"})), ImaRules(require=frozenset({"/opt/perun/train.py"}))
    )

    def judged(case: str) -> set[str]:
        cmdline = (VM / case / "cmdline").read_text().removesuffix("\n")
        profile = baseline_of(case, rules)
        return codes(check_tpm(files_of(VM / case, cmdline=cmdline), now=NOW, baseline=profile))

    for case in ("A61", "B61-ima-ng", "H612-3banks", "M612-uki", "N612-uki-secureboot"):
        assert judged(case) == set(), case
    assert judged("F61-policy") == {"kernel_cmdline"}
    assert judged("C61-nobody") == {"ima_required"}


def test_e13_secure_boot_is_demanded_of_both() -> None:
    """E13: on and proven for N612, off for M612."""
    rules = Rules(BootRules(secure_boot=True))
    for case, wanted in (("N612-uki-secureboot", set()), ("M612-uki", {"secure_boot_off"})):
        assert codes(check_tpm(files_of(VM / case), now=NOW, baseline=baseline_of(case, rules))) == wanted


def test_i12_violations_are_refused_under_a_profile() -> None:
    """I12: without one they are counted."""
    found = check_tpm(files_of(VM / "D61-violation"), now=NOW, baseline=baseline_of("D61-violation"))
    assert "ima_violation" in codes(found)


def test_a_pcr_that_no_log_explains_is_proven_by_the_profiles_value() -> None:
    """A machine whose PCR 0 does not follow from its own boot log (real ones are odd): the profile decides."""
    log = (VM / "A61" / "bios_measurements.bin").read_bytes()
    assert not check_tpm(files_of(VM / "A61", event_log=None), now=NOW).accepted
    found = check_tpm(files_of(VM / "A61", event_log=None), now=NOW, baseline=baseline_of("A61"))
    assert found.accepted
    assert found.claims["boot"] is None
    assert check_event_log(log).accepted


def test_without_logs_the_quote_alone_is_judged() -> None:
    """No PCR is told, for nothing says what they are; under a profile that is too little."""
    alone = files_of(VM / "A61", event_log=None, ima=None)
    found = check_tpm(alone, now=NOW)
    assert found.accepted
    assert found.claims["pcrs"] is None
    assert not check_tpm(alone, now=NOW, baseline=baseline_of("A61")).accepted


def test_a_boot_log_alone_is_not_believed_on_a_machine_with_ima() -> None:
    """Q8: one digest covers all PCRs; which ones no log explains is said."""
    found = check_tpm(files_of(VM / "A61", ima=None), now=NOW)
    assert codes(found) == {"pcr_digest"}
    assert "sha256:10" in found.reasons[0].seen


def test_n3_another_nonce_is_refused() -> None:
    """N3, N6: another one, and a prefix of the right one."""
    right = bytes.fromhex((VM / "A61" / "nonce.hex").read_text().strip())
    for nonce in (bytes(32), right[:-1], right + b"\0"):
        assert codes(check_tpm(files_of(VM / "A61", nonce=nonce), now=NOW)) == {"binding_mismatch"}


def test_q26_another_key_is_refused() -> None:
    """Q26, Q27: the TPM's other key; another machine's."""
    for folder, name in (("A61", "ak_rsa"), ("B61-ima-ng", "ak_ecc")):
        for form in (".tpm2b_public", ".pub.pem"):
            found = check_tpm(files_of(VM / "A61", ak=(VM / folder / (name + form)).read_bytes()), now=NOW)
            assert not found.accepted
            assert ("weak_scheme" if name == "ak_rsa" else "quote_signature") in codes(found)


def test_k17_another_machines_ek_certificate_is_refused() -> None:
    """Q28, K17: genuine, of the same CA, and not of this TPM; for a key in PEM too."""
    other = (VM / "B61-ima-ng" / "ek_rsa.crt.der").read_bytes()
    for pem in (False, True):
        assert codes(check_tpm(files_of(VM / "A61", pem=pem, ek_certificate=other), now=NOW)) == {"unknown_ak"}


def test_k2_an_ek_certificate_of_an_unknown_ca_is_refused() -> None:
    """K1, K2, K11: no root, only the intermediate, and a time at which nothing is valid."""
    root, leaf = "swtpm-localca-rootca-cert.pem", "issuercert.pem"
    without = [(VM / "ca" / leaf).read_bytes()]
    assert codes(check_tpm(files_of(VM / "A61", authorities=without), now=NOW)) == {"ek_chain"}
    assert codes(check_tpm(files_of(VM / "A61", authorities=[(VM / "ca" / root).read_bytes()]), now=NOW)) == {
        "ek_chain"
    }
    assert codes(check_tpm(files_of(VM / "A61"), now=0)) == {"ek_expired"}
    assert "non_canonical" in codes(check_tpm(files_of(VM / "A61", ek_certificate=b"junk"), now=NOW))


@pytest.mark.parametrize("member", ["attest", "signature", "ak", "event_log", "ima", "ek_certificate"])
def test_mutations_of_each_file_are_refused_or_say_the_same(member: str) -> None:
    """Bit flips, cuts and doubled bytes: never an exception, never another claim accepted."""
    honest = files_of(VM / "A61")
    said = check_tpm(honest, now=NOW)
    generator = random.Random(member)
    data = getattr(honest, member)
    for _ in range(150):
        changed = bytearray(data)
        place = generator.randrange(len(changed))
        match generator.randrange(4):
            case 0:
                del changed[place:]
            case 1:
                changed[place:place] = changed[place : place + 8]
            case _:
                changed[place] ^= 1 << generator.randrange(8)
        found = check_tpm(files_of(VM / "A61", **{member: bytes(changed)}), now=NOW)
        if found.accepted and bytes(changed) != data:
            # what no PCR covers may differ (the boot log's event types and data); what is proven may not
            assert member == "event_log"
            assert found.claims["pcrs"] == said.claims["pcrs"]


@pytest.mark.parametrize("case", CASES)
def test_a_log_of_text_is_taken_for_the_same_and_marked_weaker(case: str) -> None:
    """ASCII, with and without a profile; a tampered one proves nothing."""
    text = (VM / case / "ima.ascii").read_bytes()
    found = check_tpm(files_of(VM / case, ima=text), now=NOW)
    binary = check_tpm(files_of(VM / case), now=NOW)
    assert (found.accepted, found.reasons) == (True, ())
    assert found.claims["ima"]["weaker"]
    assert found.claims["ima"]["covered"] == binary.claims["ima"]["covered"]
    profile = baseline_of(case)
    assert codes(check_tpm(files_of(VM / case, ima=text), now=NOW, baseline=profile)) == codes(
        check_tpm(files_of(VM / case), now=NOW, baseline=profile)
    )
    assert "pcr10_mismatch" in codes(
        check_tpm(files_of(VM / case, ima=text.replace(b"/usr/lib/", b"/usr/lab/")), now=NOW)
    )
    logs = Sources(ima_log=text, event_log=(VM / case / "bios_measurements.bin").read_bytes())
    assert build_baseline(logs).baseline == profile


def test_a_log_is_checked_alone() -> None:
    """`evidence check ima` and `event-log`: form, template hashes, and a value of PCR 10 that a prefix must give."""
    for case in CASES:
        folder = VM / case
        pcr10 = json.loads((folder / "expected.json").read_text())["pcrs_sha256"]["10"]
        found = check_ima((folder / "ima.bin").read_bytes(), ("sha256", bytes.fromhex(pcr10)))
        assert found.accepted
        assert found.claims["ima"]["covered"] == found.claims["ima"]["entries"]
        assert found.claims["ima"]["pcr10"]["sha256"] == pcr10
        assert check_event_log((folder / "bios_measurements.bin").read_bytes()).accepted
    log = (VM / "A61" / "ima.bin").read_bytes()
    assert codes(check_ima(log, ("sha256", b"\1" * 32))) == {"pcr10_mismatch"}
    assert codes(check_ima(log, ("sha256", bytes(32)))) == {"ima_not_extended"}
    assert codes(check_event_log(b"")) == codes(check_event_log(bytes(3))) == {"non_canonical"}


def test_a_log_of_every_template_is_read() -> None:
    """A log made of one line of each; whether a policy would take them is another question."""
    found = check_ima((FOLDER / "ima" / "kgoldman__ibmtss" / "imatest.log").read_bytes())
    assert found.accepted
    assert found.claims["ima"]["entries"] == 17
    assert {"ima", "ima-ngv2", "ima-sigv2", "ima-buf", "ima-modsig", "evm-sig"} <= set(found.claims["ima"]["templates"])


def test_i27_lines_for_another_pcr_are_told_and_prove_nothing() -> None:
    """I27: a real server's log has some. Alone they are told; against PCR 10, which says nothing of them, they refuse."""
    log = (FOLDER / "ima" / "immune-gmbh__guard-oss" / "sr630.binary_measurements").read_bytes()
    found = check_ima(log)
    assert found.accepted
    assert set(found.claims["ima"]["pcrs"]) == {"10", "11"}
    assert found.claims["ima"]["violations"] > 0
    assert "ima_pcr" in codes(check_ima(log, ("sha256", bytes(range(32)))))
    changed = bytearray((VM / "A61" / "ima.bin").read_bytes())
    changed[0] = 11
    assert "ima_pcr" in codes(check_tpm(files_of(VM / "A61", ima=bytes(changed)), now=NOW))


# physical machines


def physical(name: str, **changes: object) -> TpmFiles:
    """A physical machine's quote with its recovered key and boot log; its nonce is what it signs."""
    document = json.loads((PHYSICAL / f"{name}.json").read_text())
    attest = base64.b64decode(document["quote"])
    signer = parse_attest(attest).qualified_signer.hex()
    key = json.loads((PHYSICAL / "recovered_ak_pub.json").read_text())[signer]
    numbers = ec.EllipticCurvePublicNumbers(int(key["x"], 16), int(key["y"], 16), ec.SECP256R1())
    pem = numbers.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    found: dict[str, object] = {
        "attest": attest,
        "signature": base64.b64decode(document["signature"]),
        "ak": pem,
        "nonce": parse_attest(attest).extra_data,
        "event_log": (PHYSICAL / f"{name}.eventlog").read_bytes(),
    }
    return TpmFiles(**{**found, **changes})  # type: ignore[arg-type]  # a call's members by name


@pytest.mark.parametrize("name", ["good-1", "r340"])
def test_a_physical_machines_boot_log_gives_the_pcrs_that_it_quotes(name: str) -> None:
    """Q32, E1: a laptop and a server with Windows' measurements in PCRs 11 to 14."""
    found = check_tpm(physical(name), now=NOW)
    assert (found.accepted, found.reasons) == (True, ())
    told = json.loads((PHYSICAL / f"{name}.json").read_text())["pcrs"]
    assert found.claims["pcrs"]["sha256"] == {i: base64.b64decode(value).hex() for i, value in told.items()}


def test_a_laptop_whose_kernel_has_ima_and_no_policy_is_explained_by_its_boot_log() -> None:
    """Three banks, one of which the firmware's log lacks, and a PCR 10 that holds boot_aggregate alone. Its key is not known,
    so the signature is all that is refused."""
    document = json.loads((PHYSICAL / "ludmilla.json").read_text())
    attest = base64.b64decode(document["quote"])
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    found = check_tpm(
        TpmFiles(
            attest,
            base64.b64decode(document["signature"]),
            stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            parse_attest(attest).extra_data,
            (PHYSICAL / "ludmilla.eventlog").read_bytes(),
        ),
        now=NOW,
    )
    assert codes(found) == {"quote_signature"}
    told = {i: base64.b64decode(value).hex() for i, value in document["pcrs"].items()}
    assert found.claims["pcrs"]["sha256"] == told


def test_e1_a_physical_machine_that_is_not_what_its_log_says_is_refused() -> None:
    """E1: failed-1 differs from its log in PCR 0."""
    assert codes(check_tpm(physical("failed-1"), now=NOW)) == {"pcr_digest"}


def test_e8_a_log_that_lacks_an_event_is_refused() -> None:
    """E8: the last event of good-1 cut off."""
    whole = physical("good-1")
    other = physical("good-1", event_log=(PHYSICAL / "r340.eventlog").read_bytes())
    assert whole.event_log is not None
    assert not check_tpm(other, now=NOW).accepted
