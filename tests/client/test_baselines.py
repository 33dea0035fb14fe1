"""Baselines out of a root folder, images, packages, logs and another verifier's policy: what is listed, and what is left out
and told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.client.baselines import Rules, Sources, assemble, build_baseline, import_keylime
from perunml.client.baselines.packages import installed
from perunml.evidence.baseline import Baseline
from perunml.evidence.difference import difference
from perunml.evidence.rules import BootRules, ImaRules, TpmRules
from perunml.testing.forge import ForgedTpm
from perunml.wire.errors import EvidenceRefusal, UsageError

CONTENT = {
    "usr/bin/tool": (b"\x7fELF tool", 0o755),
    "usr/lib/libx.so.1.2": (b"no elf, and a library by name", 0o644),
    "usr/lib/python3/site.py": (b"pass\n", 0o644),
    "usr/share/doc/readme": (b"hello", 0o644),
    "usr/sbin/script": (b"#!/bin/sh\n", 0o644),
    "etc/with space": (b"", 0o600),
}
LOADED = {"/usr/bin/tool", "/usr/lib/libx.so.1.2", "/usr/lib/python3/site.py", "/usr/sbin/script"}


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


WANTED = {"/" + name: {sha256(data)} for name, (data, _) in CONTENT.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root folder, with what must not be listed beside it."""
    folder = tmp_path / "root"
    for name, (data, mode) in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
    (folder / "usr/bin/link").symlink_to("tool")
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text("not of the root")
    os.mkfifo(folder / "usr/pipe")
    return folder


def tar_of(names: dict[str, tuple[bytes, int]], *, mode: str = "w", prefix: str = "./", links: bool = False) -> bytes:
    """A tar archive, its members named as `dpkg-deb` and `docker export` name them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, (data, permissions) in names.items():
            member = tarfile.TarInfo(prefix + name)
            member.size, member.mode = len(data), permissions
            archive.addfile(member, io.BytesIO(data))
        if links:
            member = tarfile.TarInfo(prefix + "usr/bin/hard")
            member.type, member.linkname = tarfile.LNKTYPE, prefix + "usr/bin/tool"
            archive.addfile(member)
            member = tarfile.TarInfo(prefix + "usr/bin/soft")
            member.type, member.linkname = tarfile.SYMTYPE, "tool"
            archive.addfile(member)
    return out.getvalue()


def deb_of(control: str, data: bytes, name: str = "data.tar.xz") -> bytes:
    """A .deb file (deb(5))."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar_of({"control": (control.encode(), 0o644)}, mode="w:gz"),
        name: data,
    }
    out = b"!<arch>\n"
    for title, body in members.items():
        out += f"{title:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return out


def files_of(**sources: object) -> dict[str, set[str]]:
    built = build_baseline(Sources(**sources))  # type: ignore[arg-type]  # a call's members by name
    return {path: set(digests) for path, digests in built.baseline.files.items()}


def test_a_root_folder(root: Path) -> None:
    """Regular files by their paths from the root; no links, no pipes, nothing of /proc."""
    seen: list[tuple[int, int]] = []
    built = build_baseline(Sources(root=root), progress=lambda done, total: seen.append((done, total)))
    assert {path: set(digests) for path, digests in built.baseline.files.items()} == WANTED
    assert (built.notes, built.left_out) == ((), 0)
    assert built.read == seen[-1][0] == seen[-1][1] == sum(len(data) for data, _ in CONTENT.values())


def test_only_what_may_be_loaded(root: Path) -> None:
    """`--exec-only`: by mode, first bytes, or name."""
    assert set(files_of(root=root, exec_only=True)) == LOADED


def test_several_hashes(root: Path) -> None:
    """For kernels with `ima_hash=sha512`."""
    found = files_of(root=root, algorithms=("sha256", "sha512"))
    assert found["/usr/bin/tool"] == {sha256(b"\x7fELF tool"), "sha512:" + hashlib.sha512(b"\x7fELF tool").hexdigest()}


def test_a_path_that_is_no_utf8_is_told_and_left_out(root: Path) -> None:
    """No document can hold it; leaving it out refuses it."""
    (root / os.fsdecode(b"bad\xff")).write_text("x")
    built = build_baseline(Sources(root=root))
    assert built.left_out == 1
    assert "not UTF-8" in built.notes[0]
    assert not any("bad" in path for path in built.baseline.files)


def test_a_file_that_cannot_be_read_is_no_hole(root: Path) -> None:
    """A listing with holes would refuse honest machines: it is an error."""
    if os.geteuid() == 0:
        pytest.skip("root reads everything; runs where tests are not root's")
    (root / "usr/bin/tool").chmod(0)
    with pytest.raises(UsageError) as caught:
        files_of(root=root)
    assert caught.value.code == "baseline_source"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("prefix", ["./", "", "/"])
def test_a_tar_image(tmp_path: Path, mode: str, prefix: str) -> None:
    """As `docker export` or `tar` make it; hard links are files, symbolic links are none."""
    image = tmp_path / "root.tar"
    image.write_bytes(tar_of(CONTENT, mode=mode, prefix=prefix, links=True))
    assert files_of(image=image) == WANTED | {"/usr/bin/hard": {sha256(b"\x7fELF tool")}}
    assert set(files_of(image=image, exec_only=True)) == LOADED | {"/usr/bin/hard"}


@pytest.mark.parametrize("data", [b"", b"noise" * 1000, tar_of({"../out": (b"x", 0o644)}), tar_of(CONTENT)[:700]])
def test_an_image_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    """Of no known kind, a member that leads out of it, cut short: one code."""
    image = tmp_path / "image"
    image.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        files_of(image=image)
    assert caught.value.code == "baseline_source"


def test_an_ext4_image(tmp_path: Path, root: Path) -> None:
    """Read by `debugfs`, without mounting it."""
    make = shutil.which("mke2fs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if make is None or shutil.which("debugfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
        pytest.skip("no e2fsprogs here; runs on Debian, which has it by default")
    (root / "usr/pipe").unlink()
    image = tmp_path / "image.ext4"
    subprocess.run([make, "-q", "-t", "ext4", "-d", root, image, "8M"], check=True, capture_output=True)
    assert files_of(image=image) == WANTED


@pytest.mark.parametrize(
    ("make", "read", "command"),
    [
        ("mksquashfs", "unsquashfs", ["mksquashfs", "{root}", "{image}", "-quiet", "-no-progress"]),
        ("mkfs.erofs", "fsck.erofs", ["mkfs.erofs", "{image}", "{root}"]),
    ],
    ids=["squashfs", "erofs"],
)
def test_an_image_of_a_read_only_file_system(
    tmp_path: Path, root: Path, make: str, read: str, command: list[str]
) -> None:
    """As the machines' own images are: made by their tool, read by theirs, the same files."""
    if not (shutil.which(make) and shutil.which(read)):
        pytest.skip(f"{make} or {read} is not installed; `make setup` installs them")
    image = tmp_path / "image"
    subprocess.run([part.format(root=root, image=image) for part in command], check=True, capture_output=True)
    assert files_of(image=image) == WANTED


def test_an_image_whose_tool_is_missing_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to give instead."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    for data, package in (
        (b"hsqs".ljust(4096, b"\0"), "squashfs-tools"),
        (bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(100), "erofs-utils"),
        (bytes(1080) + b"\x53\xef" + bytes(100), "e2fsprogs"),
    ):
        image = tmp_path / "image"
        image.write_bytes(data)
        with pytest.raises(UsageError) as caught:
            files_of(image=image)
        assert package in caught.value.reasons[0].expected


STATUS = """Package: tool
Status: install ok installed
Architecture: amd64
Version: 1:2.0-1
Description: a tool
 with a second line: and a colon

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_packages_of_a_dpkg_status(tmp_path: Path) -> None:
    """Out of the .deb files; /bin is /usr/bin on a merged system, and is not with `--split-usr`."""
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "debs").mkdir()
    control = "Package: tool\nVersion: 1:2.0-1\nArchitecture: amd64\n"
    files = {"bin/tool": (b"\x7fELF", 0o755), "usr/share/x": (b"x", 0o644)}
    (tmp_path / "debs" / "any-name.deb").write_bytes(deb_of(control, tar_of(files, mode="w:xz")))
    dpkg = (tmp_path / "status", tmp_path / "debs")
    assert files_of(dpkg=dpkg) == {"/usr/bin/tool": {sha256(b"\x7fELF")}, "/usr/share/x": {sha256(b"x")}}
    assert set(files_of(dpkg=dpkg, split_usr=True)) == {"/bin/tool", "/usr/share/x"}
    assert installed(STATUS.encode()) == [("tool", "1:2.0-1", "amd64")]
    (tmp_path / "debs" / "any-name.deb").unlink()
    with pytest.raises(UsageError) as caught:
        files_of(dpkg=dpkg)
    assert "tool_1:2.0-1_amd64" in caught.value.reasons[0].seen


def test_a_package_compressed_with_zstd(tmp_path: Path) -> None:
    """As Ubuntu's are."""
    if shutil.which("zstd") is None:
        pytest.skip("no zstd here; runs where it is installed")
    (tmp_path / "status").write_text(STATUS)
    data = subprocess.run(["zstd", "-qc"], input=tar_of(CONTENT), capture_output=True, check=True).stdout
    control = "Package: tool\nVersion: 1:2.0-1\nArchitecture: amd64\n"
    (tmp_path / "tool.deb").write_bytes(deb_of(control, data, "data.tar.zst"))
    assert files_of(dpkg=(tmp_path / "status", tmp_path)) == WANTED


def test_a_trusted_machines_log() -> None:
    """The files that it measured; violations and weak digests are told and left out."""
    tpm = ForgedTpm()
    built = build_baseline(Sources(ima_log=tpm.ima_log, values={"sha256": dict(tpm.baseline().pcrs["sha256"])}))
    assert built.baseline.files == tpm.baseline().files
    with pytest.raises(EvidenceRefusal):
        build_baseline(Sources(ima_log=tpm.ima_log[:-1]))


def test_pcrs_of_a_boot_log() -> None:
    """0 to 9 by default, those that are open aside; with boot rules also what a unified kernel image's stub measured."""
    from perunml.client.baselines.machine import pcrs_of
    from perunml.testing.bootlog import Boot, boot

    log = boot(Boot()).encoded
    assert set(pcrs_of(log, {})["sha256"]) == set(range(10))
    later = {index for index in (11, 12, 13, 14) if index in pcrs_of(log, {"sha256": range(15)})["sha256"]}
    assert set(pcrs_of(log, {}, judged=True)["sha256"]) - set(range(10)) <= later
    rules = Rules(boot=BootRules(open=frozenset({1, 5})))
    made = build_baseline(Sources(event_log=log), rules).baseline
    assert {1, 5}.isdisjoint(made.pcrs["sha256"])
    with pytest.raises(UsageError):
        pcrs_of(log, {"sha512": [0]})
    with pytest.raises(EvidenceRefusal):
        pcrs_of(log[:-1], {})


def test_nothing_makes_no_baseline(tmp_path: Path) -> None:
    """An empty root, and a window without an end."""
    with pytest.raises(UsageError):
        files_of(root=tmp_path)
    with pytest.raises(UsageError):
        assemble({"/a": {sha256(b"")}}, Sources(), Rules(), older=Baseline({}, {}))
    with pytest.raises(UsageError):
        assemble({"/a": {sha256(b"")}}, Sources(pcrs={"sha256": [0]}), Rules())


def test_i31_a_window_allows_the_older_state_until_its_end() -> None:
    """I31: an update rolled out over a night."""
    old = assemble({"/a": {sha256(b"1")}}, Sources(), Rules())
    new = assemble({"/a": {sha256(b"2")}}, Sources(), Rules(), older=old, until=1_800_000_000)
    assert len(new.at(1_799_999_999).files[b"/a"]) == 2
    assert len(new.at(1_800_000_000).files[b"/a"]) == 1


# another verifier's policy


def test_a_runtime_policy_is_imported_and_what_is_left_out_is_told() -> None:
    """Digests, measured keys and verification keys; no pattern, no weak digest, no keyring that is ignored. I17."""
    spki = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    policy = {
        "meta": {"version": 1, "generator": 3},
        "release": 0,
        "digests": {
            "/usr/bin/a": ["aa" * 32, "BB" * 64, "cc" * 20],
            "/weak": ["dd" * 20],
            "boot_aggregate": ["ee" * 32],
            "/odd": "no list",
        },
        "excludes": ["^/tmp/.*$", "(a+)+$"],
        "keyrings": {".ima": ["11" * 32], ".builtin": ["22" * 20]},
        "ima": {"ignored_keyrings": ["*"], "log_hash_alg": "sha1", "dm_policy": None},
        "ima-buf": {"kexec-cmdline": ["33" * 32]},
        "verification-keys": json.dumps({"pubkeys": [base64.b64encode(der).decode(), "junk"]}),
        "surprise": 1,
    }
    found = import_keylime(json.dumps(policy).encode())
    assert found.files == {"/usr/bin/a": {"sha256:" + "aa" * 32, "sha512:" + "bb" * 64}}
    assert found.rules == ImaRules(keys=frozenset({sha256(der)}), keyrings=frozenset({"sha256:" + "11" * 32}))
    told = "\n".join(found.notes)
    for word in (
        "^/tmp/.*$", "(a+)+$", "/weak", "boot_aggregate", "/odd", "/usr/bin/a", ".builtin", "ignored_keyrings", "log_hash_alg",
        "kexec-cmdline", "key 2", "surprise",
    ):  # fmt: skip
        assert word in told
    assert "dm_policy" not in told


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"digests": []}', b'{"digests": {}, "digests": {}}', b"\xff"])
def test_what_is_no_runtime_policy_is_refused(data: bytes) -> None:
    """One code for whatever it is."""
    with pytest.raises(UsageError):
        import_keylime(data)


@pytest.mark.parametrize("key", [5, "x", {"pubkeys": 7}, ["-----BEGIN PUBLIC KEY-----"], [None]])
def test_odd_verification_keys_are_told(key: object) -> None:
    """Never an exception of another kind, never a key."""
    found = import_keylime(json.dumps({"digests": {"/a": ["aa" * 32]}, "verification-keys": key}).encode())
    assert found.rules == ImaRules()
    assert found.notes


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["aa" * 32, "/a", "-----BEGIN"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_MEMBERS = ("digests", "excludes", "keyrings", "ima", "ima-buf", "verification-keys", "meta", "x")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON, max_size=6))
def test_no_policy_escapes_as_another_error(policy: dict[str, object]) -> None:
    """Whatever stands where: an import that is a baseline's part, or a coded refusal."""
    try:
        found = import_keylime(json.dumps(policy).encode())
    except UsageError:
        return
    assert ImaRules.from_json(found.rules.as_json()) == found.rules
    if found.files:
        assemble(found.files, Sources(), Rules(ima=found.rules))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_package_escapes_as_another_error(data: st.DataObject) -> None:
    """A .deb that was cut, flipped or stretched is read, or refused with the one code."""
    control = "Package: tool\nVersion: 1:2.0-1\nArchitecture: amd64\n"
    changed = bytearray(deb_of(control, tar_of({"bin/tool": (b"\x7fELF", 0o755)}, mode="w:gz"), "data.tar.gz"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                changed[at] ^= data.draw(st.integers(1, 255))
            case 1 if at > 16:
                del changed[at:]
            case _:
                changed[at:at] = data.draw(st.binary(max_size=16))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "status").write_text(STATUS)
        (Path(folder) / "tool.deb").write_bytes(changed)
        with contextlib.suppress(UsageError):
            found = files_of(dpkg=(Path(folder) / "status", Path(folder)))
            assert all(path.startswith("/") for path in found)


# differences


def test_a_difference_says_what_widens() -> None:
    """Files, PCRs, rules and windows; what is replaced does both."""
    a, b, c = (sha256(name) for name in (b"a", b"b", b"c"))
    before = Baseline(
        {"sha256": {0: bytes(32), 1: bytes(32)}},
        {"/gone": frozenset({a}), "/grows": frozenset({a}), "/moves": frozenset({a})},
        BootRules(secure_boot=True, open=frozenset({1})),
        ImaRules(require=frozenset({"/moves"}), policies=frozenset({a})),
    )
    after = Baseline(
        {"sha256": {0: b"\1" * 32, 2: bytes(32)}},
        {"/grows": frozenset({a, b}), "/moves": frozenset({c}), "/new": frozenset({a})},
        BootRules(open=frozenset({1, 2}), cmdline=frozenset({"x"})),
        ImaRules(kexec=True, policies=frozenset({a, b})),
        TpmRules(discrete=True),
    )
    found = {change.name: change.effect for change in difference(before, after)}
    assert found == {
        "/gone": "narrows",
        "/grows": "widens",
        "/moves": "both",
        "/new": "widens",
        "sha256:0": "both",
        "sha256:1": "widens",
        "sha256:2": "narrows",
        "boot.secure_boot": "widens",
        "boot.cmdline": "narrows",
        "boot.open": "widens",
        "ima.require": "widens",
        "ima.policies": "widens",
        "ima.kexec": "widens",
        "tpm.discrete": "narrows",
    }
    assert difference(before, before) == ()
    sentences = [change.sentence for change in difference(before, after)]
    assert f"file /new is added: {a} (widens)" in sentences
    assert all(change.as_json()["sentence"] for change in difference(before, after))


def test_a_window_that_opens_later_shuts_or_moves() -> None:
    """A window is known by the state that it allows."""
    old = Baseline({}, {"/a": frozenset({sha256(b"1")})})
    files = {"/a": {sha256(b"2")}}
    none = assemble(files, Sources(), Rules())
    short, long = (assemble(files, Sources(), Rules(), older=old, until=end) for end in (1000, 2000))
    assert [change.effect for change in difference(none, short)] == ["widens"]
    assert [change.effect for change in difference(short, long)] == ["widens"]
    assert [change.effect for change in difference(long, short)] == ["narrows"]
    assert [change.effect for change in difference(short, none)] == ["narrows"]


def test_demanding_one_of_some_policies_narrows_and_letting_go_widens() -> None:
    """An empty list demands nothing."""
    a, b = sha256(b"a"), sha256(b"b")
    one, none = (Baseline({}, {}, ima=ImaRules(policies=found)) for found in (frozenset({a}), frozenset[str]()))
    other = Baseline({}, {}, ima=ImaRules(policies=frozenset({b})))
    assert [change.effect for change in difference(none, one)] == ["narrows"]
    assert [change.effect for change in difference(one, none)] == ["widens"]
    assert [change.effect for change in difference(one, other)] == ["both"]


def test_every_rule_has_its_meaning() -> None:
    """A new rule that nobody has thought about would count as both; here it is named."""
    from dataclasses import fields

    from perunml.evidence.difference import _MEANING

    rules = {
        f"{group}.{f.name}"
        for group, kind in (("boot", BootRules), ("ima", ImaRules), ("tpm", TpmRules))
        for f in fields(kind)
    }
    assert rules == set(_MEANING)
