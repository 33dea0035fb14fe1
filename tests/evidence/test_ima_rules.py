"""What a baseline may ask of an IMA log besides listed files, and excuse in it: `ImaRules`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from evidence.judging import BINDING, NOW, codes, judged
from perunml.evidence.baseline import Baseline, Until
from perunml.evidence.ima.appraise import LogFindings, appraise_log
from perunml.evidence.rules import ImaRules
from perunml.testing.forge import ForgedTpm, Quoting
from perunml.testing.imalog import boot_aggregate, buffer_line, ima_line

POLICY, OTHER = b"measure func=FILE_CHECK\n", b"dont_measure\n"


def told(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def with_rules(tpm: ForgedTpm, files: dict[str, bytes] | None = None, **rules: object) -> Baseline:
    known = tpm.baseline()
    listed = {**known.files, **{path: frozenset([told(content)]) for path, content in (files or {}).items()}}
    return replace(known, files=listed, ima=ImaRules(**rules))  # type: ignore[arg-type]  # the tests' own words


def found(tpm: ForgedTpm, baseline: Baseline) -> LogFindings:
    pcrs = {bank: dict(enumerate(values)) for bank, values in tpm.pcrs.items()}
    return appraise_log(tpm.ima_log, 0, pcrs, baseline.at(NOW))


def refused(tpm: ForgedTpm, baseline: Baseline) -> list[str]:
    return [reason.code for reason in found(tpm, baseline).reasons]


# what must have been measured


def test_i29_an_unlisted_training_script_is_refused() -> None:
    """I29, I30: scripts, byte code and preloaded libraries are files like others."""
    for path in ("/opt/train.py", "/opt/__pycache__/train.cpython-311.pyc", "/tmp/evil.so"):
        tpm = ForgedTpm()
        baseline = tpm.baseline()
        tpm.measure(path, b"x")
        assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == ["not_in_policy"]


def test_i29_a_training_script_that_was_not_measured_is_refused() -> None:
    """I29: a policy that leaves out what unprivileged users read shows nothing wrong, so the script is required."""
    tpm = ForgedTpm()
    baseline = with_rules(tpm, {"/opt/train.py": b"train"}, require=frozenset(["/opt/train.py"]))
    assert refused(tpm, baseline) == ["ima_required"]
    tpm.measure("/opt/train.py", b"train")
    assert refused(tpm, baseline) == []


def test_a_required_file_with_another_digest_is_not_it() -> None:
    """Its path alone does not do."""
    tpm = ForgedTpm()
    baseline = with_rules(tpm, {"/opt/train.py": b"train"}, require=frozenset(["/opt/train.py"]))
    tpm.measure("/opt/train.py", b"other")
    assert refused(tpm, baseline) == ["not_in_policy", "ima_required"]


def test_a_required_file_after_the_proven_prefix_is_not_measured_yet() -> None:
    """Invariant 3: a line that the quote does not prove admits nothing; the next quote proves it."""
    tpm = ForgedTpm()
    baseline = with_rules(tpm, {"/opt/train.py": b"train"}, require=frozenset(["/opt/train.py"]))
    line = ima_line(b"/opt/train.py", hashlib.sha256(b"train").digest())
    early = tpm.bundle(BINDING, Quoting(log=tpm.ima_log + line.encoded))
    assert codes(judged(tpm, early, baseline)) == ["ima_required"]
    tpm.log(line)
    assert codes(judged(tpm, tpm.bundle(BINDING), baseline)) == []


def test_a_violation_of_a_required_file_does_not_measure_it() -> None:
    """A line whose digest is not the file's proves no file, even where it is excused."""
    tpm = ForgedTpm()
    rules = {"require": frozenset(["/opt/train.py"]), "violations": frozenset(["/opt/train.py"])}
    baseline = with_rules(tpm, {"/opt/train.py": b"train"}, **rules)
    tpm.measure("/opt/train.py", b"train", violation=True)
    assert refused(tpm, baseline) == ["ima_required"]


# violations


def test_i12_a_violation_is_excused_at_its_path_alone() -> None:
    """I12: and its replay goes on."""
    tpm = ForgedTpm()
    baseline = with_rules(tpm, violations=frozenset(["/var/log/journal"]))
    tpm.measure("/var/log/journal", b"", violation=True)
    assert refused(tpm, baseline) == []
    tpm.measure("/var/log/other", b"", violation=True)
    assert refused(tpm, baseline) == ["ima_violation"]


# IMA policies


def test_a_policy_that_must_be_in_force_and_is_not_shown_is_refused() -> None:
    """A baseline that names policies is not met by a log without one."""
    tpm = ForgedTpm()
    assert refused(tpm, with_rules(tpm, policies=frozenset([told(POLICY)]))) == ["ima_policy"]


@pytest.mark.parametrize("name", ["ima_policy_loaded", "ima_policy_written", "/etc/ima/ima-policy", "/etc/other"])
def test_an_agreed_policy_is_seen_by_its_text(name: str) -> None:
    """As the kernel tells what it loaded, what was written, or as the file that was loaded."""
    tpm = ForgedTpm()
    baseline = with_rules(tpm, policies=frozenset([told(POLICY)]))
    if name.startswith("/"):
        tpm.measure(name, POLICY)
        listed = with_rules(tpm, {name: POLICY}, policies=frozenset([told(POLICY)]))
        assert refused(tpm, listed) == []
    else:
        tpm.log(buffer_line(name.encode(), POLICY))
    assert refused(tpm, baseline) == []


@pytest.mark.parametrize("name", ["ima_policy_loaded", "ima_policy_written", "/etc/ima/ima-policy"])
def test_another_policy_is_refused(name: str) -> None:
    """Whether policies are named or not; one that is named beside it does not help."""
    for policies in (frozenset[str](), frozenset([told(POLICY)])):
        tpm = ForgedTpm()
        baseline = with_rules(tpm, policies=policies)
        if policies:
            tpm.log(buffer_line(b"ima_policy_loaded", POLICY))
        if name.startswith("/"):
            tpm.measure(name, OTHER)
        else:
            tpm.log(buffer_line(name.encode(), OTHER))
        assert refused(tpm, baseline) == ["ima_policy"]


def test_i20_a_policy_loaded_again_is_refused_unless_allowed() -> None:
    """I20: even an agreed one: what was in force before it was another."""
    tpm = ForgedTpm()
    policies = frozenset([told(POLICY), told(OTHER)])
    tpm.measure("/etc/ima/ima-policy", POLICY)
    tpm.log(buffer_line(b"ima_policy_written", POLICY))
    tpm.log(buffer_line(b"ima_policy_loaded", POLICY))
    assert refused(tpm, with_rules(tpm, policies=policies)) == []
    tpm.log(buffer_line(b"ima_policy_loaded", OTHER))
    assert refused(tpm, with_rules(tpm, policies=policies)) == ["ima_policy"]
    assert refused(tpm, with_rules(tpm, policies=policies, reload=True)) == []
    assert refused(tpm, with_rules(tpm, policies=frozenset([told(POLICY)]), reload=True)) == ["ima_policy"]


def test_i20_a_second_policy_file_is_a_second_policy() -> None:
    """I20: kernels that do not tell what they loaded measure only the file."""
    tpm = ForgedTpm()
    policies = frozenset([told(POLICY), told(OTHER)])
    tpm.measure("/etc/ima/ima-policy", POLICY)
    tpm.measure("/etc/ima/other", OTHER)
    assert refused(tpm, with_rules(tpm, policies=policies)) == ["ima_policy"]


@pytest.mark.parametrize("template", ["ima-sig", "ima-sigv2"])
@pytest.mark.parametrize("named", [True, False], ids=["by rules", "among files"])
def test_i20_a_policy_loaded_again_is_seen_under_another_templates_name(template: str, named: bool) -> None:
    """I20: no digest covers a line's template, and ima-sig has the form of ima-buf: the kernel's lines of what it loaded,
    shown as files, are still loads."""
    tpm = ForgedTpm()
    first, second = (buffer_line(b"ima_policy_loaded", content) for content in (POLICY, OTHER))
    other = len(template).to_bytes(4, "little") + template.encode()
    first, hidden = (
        replace(line, encoded=line.encoded.replace(b"\x07\0\0\0ima-buf", other, 1)) for line in (first, second)
    )
    tpm.log(first)
    tpm.log(second if named else hidden)
    policies = frozenset([told(POLICY), told(OTHER)])
    baseline = with_rules(tpm, policies=policies)
    if not named:
        loaded = {"ima_policy_loaded": policies}
        baseline = replace(with_rules(tpm), files={**with_rules(tpm).files, **loaded})
    assert refused(tpm, baseline) == ["ima_policy"]
    assert refused(tpm, replace(baseline, ima=replace(baseline.ima, reload=True))) == []


def test_a_buffer_that_is_not_what_its_digest_says_is_refused() -> None:
    """The digest is judged, the content is read: they must be one."""
    tpm = ForgedTpm()
    digest = hashlib.sha256(POLICY).digest()
    tpm.log(ima_line(b"ima_policy_loaded", digest, template="ima-buf", more=[OTHER]))
    assert refused(tpm, with_rules(tpm, policies=frozenset([told(POLICY)])))[0] == "non_canonical"


def test_a_policy_after_the_proven_prefix_is_not_in_force_yet() -> None:
    """Invariant 3, as for a required file."""
    tpm = ForgedTpm()
    baseline = with_rules(tpm, policies=frozenset([told(POLICY)]))
    early = tpm.bundle(BINDING, Quoting(log=tpm.ima_log + buffer_line(b"ima_policy_loaded", POLICY).encoded))
    assert codes(judged(tpm, early, baseline)) == ["ima_policy"]


# kexec


def test_i11_a_second_boot_aggregate_is_excused_for_kexec_alone() -> None:
    """I11: and only when it is of the same PCRs; listing it as a file does not help."""
    tpm = ForgedTpm()
    again = boot_aggregate(tpm.pcrs["sha256"])
    listed = with_rules(tpm, {"boot_aggregate": b"".join(tpm.pcrs["sha256"][:10])})
    tpm.log(again)
    assert refused(tpm, listed) == ["boot_aggregate"]
    assert refused(tpm, with_rules(tpm, kexec=True)) == []
    tpm.log(boot_aggregate([b"\1" * 32] * 10))
    assert refused(tpm, with_rules(tpm, kexec=True)) == ["boot_aggregate"]


def test_i11_a_kexec_command_line_must_be_listed() -> None:
    """I11: what the next kernel is told is a buffer by name and digest."""
    tpm = ForgedTpm()
    tpm.log(buffer_line(b"kexec-cmdline", b"ima=off"))
    assert refused(tpm, with_rules(tpm, kexec=True)) == ["not_in_policy"]
    assert refused(tpm, with_rules(tpm, {"kexec-cmdline": b"ima=off"}, kexec=True)) == []


# digests and templates


def test_a_signature_field_with_a_length_alone_is_refused() -> None:
    """I25: a listed file's line, but for the length of a signature that is not there."""
    tpm = ForgedTpm(template="ima-sig")
    assert refused(tpm, tpm.baseline()) == []
    last = tpm.lines.pop()
    data = last.data[:-4] + b"\4\0\0\0"
    head = last.encoded[:4] + hashlib.sha1(data).digest() + last.encoded[24 : -len(last.data)]
    tpm.log(replace(last, encoded=head + data, data=data))
    assert refused(tpm, tpm.baseline()) == ["non_canonical"]


@pytest.mark.parametrize("size", [0, 1, 4, 264, 4096])
def test_a_listed_file_is_good_whatever_its_signature(size: int) -> None:
    """A machine whose files are all signed: the listed digest is what counts, and the field is one, of its length."""
    tpm = ForgedTpm(files={}, template="ima-sig")
    tpm.log(ima_line(b"/bin/x", hashlib.sha256(b"x").digest(), template="ima-sig", more=[b"\3" * size]))
    assert refused(tpm, with_rules(tpm, {"/bin/x": b"x"})) == []
    assert refused(tpm, with_rules(tpm, {"/bin/x": b"y"})) == ["not_in_policy"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\0",
        lambda data: data[:-1],
        lambda data: data[:-4],
        lambda data: data + bytes(4),
        lambda data: b"\xff\xff\xff\xff" + data[4:],
        lambda data: data[:44] + b"\xff\xff\xff\xff" + data[48:],
        lambda data: data[:2],
        lambda data: b"",
    ],
    ids=["a byte more", "a byte less", "no signature field", "a field more", "long digest", "long path", "cut", "none"],
)  # fmt: skip
def test_i25_a_listed_file_with_other_fields_after_it_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    """I25: the short way for listed files reads the lengths as strictly as the long one."""
    tpm = ForgedTpm(files={}, template="ima-sig")
    line = ima_line(b"/bin/x", hashlib.sha256(b"x").digest(), template="ima-sig", more=[b"\3\2\4abcd"])
    data = spoil(line.data)
    head = line.encoded[:4] + hashlib.sha1(data).digest() + line.encoded[24 : -len(line.data) - 4]
    tpm.log(replace(line, encoded=head + len(data).to_bytes(4, "little") + data, data=data))
    assert refused(tpm, with_rules(tpm, {"/bin/x": b"x"})) == ["non_canonical"]


@pytest.mark.parametrize("before", [b"ABCDEFGH", bytes(8), b"\4\0\0\0ima:", b"\x28\0\0\0ima:"])
@pytest.mark.parametrize("template", ["ima-ngv2", "ima-sigv2"])
def test_i25_eight_bytes_before_a_listed_files_data_are_refused(template: str, before: bytes) -> None:
    """I25: the type of a digest is looked past where it is one, of the digest's length; not what stands in its place."""
    tpm = ForgedTpm(files={}, template=template)
    more = [b""] if template == "ima-sigv2" else []
    line = ima_line(b"/bin/x", hashlib.sha256(b"x").digest(), template=template, more=more)
    data = before + ima_line(b"/bin/x", hashlib.sha256(b"x").digest(), template=template[:-2], more=more).data
    head = line.encoded[:4] + hashlib.sha1(data).digest() + line.encoded[24 : -len(line.data) - 4]
    tpm.log(replace(line, encoded=head + len(data).to_bytes(4, "little") + data, data=data))
    assert refused(tpm, with_rules(tpm, {"/bin/x": b"x"})) == ["non_canonical"]


def test_i24_a_log_of_too_many_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """I24: whether its lines are plain or not."""
    tpm = ForgedTpm()
    for module in ("parse", "scan"):
        monkeypatch.setattr(f"perunml.evidence.ima.{module}.MAX_LINES", len(tpm.lines) - 1)
    assert refused(tpm, tpm.baseline()) == ["non_canonical"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"template": "ima"}, "weak_digest"),
        ({"algorithm": "sha1"}, "weak_digest"),
        ({"algorithm": "md5"}, "weak_digest"),
        ({"algorithm": "md5", "template": "ima-modsig"}, "weak_digest"),
        ({"template": "d-ng|n-ng"}, "ima_template"),
        ({"template": "evil"}, "ima_template"),
        ({"template": ""}, "ima_template"),
    ],
)
def test_i14_i15_what_is_weak_or_unknown_is_read_and_refused(options: dict[str, str], code: str) -> None:
    """I14, I15: the log replays all the same, and each further line is judged."""
    tpm = ForgedTpm()
    baseline = tpm.baseline()
    tpm.measure("/bin/x", b"x", **options)
    tpm.measure("/bin/y", b"y")
    findings = found(tpm, baseline)
    assert [reason.code for reason in findings.reasons] == [code, "not_in_policy"]
    assert findings.proven == findings.lines == len(tpm.lines)


@pytest.mark.parametrize("template", ["ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-modsig", "evm-sig"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_every_template_and_strong_digest_is_accepted(template: str, algorithm: str) -> None:
    """A listed file is one in each form that a kernel writes it in."""
    tpm = ForgedTpm(template=template)
    baseline = tpm.baseline()
    digest = hashlib.new(algorithm, b"x").hexdigest()
    baseline = replace(baseline, files={**baseline.files, "/bin/x": frozenset([f"{algorithm}:{digest}"])})
    tpm.measure("/bin/x", b"x", algorithm=algorithm)
    assert refused(tpm, baseline) == []


@pytest.mark.parametrize("bank", ["sha256", "sha384", "sha512"])
def test_every_strong_bank_replays(bank: str) -> None:
    """The same log by each bank's own hash."""
    tpm = ForgedTpm(banks=(bank,))
    assert refused(tpm, tpm.baseline()) == []


def test_an_old_kernels_sha1_with_zeros_is_refused_as_that() -> None:
    """Before Linux 5.8 each bank was extended with a SHA-1: it replays, and proves no more than SHA-1 does."""
    tpm = ForgedTpm()
    value = bytes(32)
    for line in tpm.lines:
        value = hashlib.sha256(value + hashlib.sha1(line.data).digest() + bytes(12)).digest()
    tpm.pcrs["sha256"][10] = value
    findings = found(tpm, tpm.baseline())
    assert [reason.code for reason in findings.reasons] == ["ima_weak_extend"]
    assert findings.proven == 0


def test_an_old_kernels_boot_aggregate_is_told_as_that() -> None:
    """I10: over PCRs 0 to 7 alone."""
    tpm = ForgedTpm(files={})
    baseline = tpm.baseline()
    tpm.lines, tpm.pcrs["sha256"][10] = [], bytes(32)
    tpm.log(ima_line(b"boot_aggregate", hashlib.sha256(b"".join(tpm.pcrs["sha256"][:8])).digest()))
    (reason,) = found(tpm, baseline).reasons
    assert reason.code == "boot_aggregate"
    assert "PCRs 0 to 7 alone" in reason.message


# odd paths


@pytest.mark.parametrize(
    "path", [b"/opt/a b", b"/opt/a\nb", b"/opt/\xff\xfe", b"/" + b"a" * 4095, "/opt/\u202eä".encode()]
)
def test_i16_odd_paths_match_exactly_or_are_refused(path: bytes) -> None:
    """I16: a path is bytes up to its NUL: listed exactly it is accepted, else refused by a printable name; no line is made of
    it."""
    tpm = ForgedTpm()
    unlisted = tpm.baseline()
    tpm.measure(path, b"x")
    (reason,) = found(tpm, unlisted).reasons
    assert reason.code == "not_in_policy"
    assert reason.message.isprintable()
    assert found(tpm, unlisted).lines == len(tpm.lines)
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return  # no document can list it
    assert refused(tpm, replace(unlisted, files={**unlisted.files, text: frozenset([told(b"x")])})) == []


def test_i31_an_update_within_its_window_is_accepted() -> None:
    """I31: old and new until the window ends, mixed as a rolling update mixes them; then the new alone."""
    tpm = ForgedTpm()
    new = with_rules(tpm, {"/usr/lib/libx.so": b"new"})
    window = Until(NOW + 1, {}, {"/usr/lib/libx.so": frozenset([told(b"old")])})
    baseline = replace(new, until=(window,))
    tpm.measure("/usr/lib/libx.so", b"old")
    tpm.measure("/usr/lib/libx.so", b"new")
    pcrs = {"sha256": dict(enumerate(tpm.pcrs["sha256"]))}
    assert appraise_log(tpm.ima_log, 0, pcrs, baseline.at(NOW)).reasons == ()
    (reason,) = appraise_log(tpm.ima_log, 0, pcrs, baseline.at(NOW + 1)).reasons
    assert reason.code == "not_in_policy"
