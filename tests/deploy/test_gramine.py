"""Gramine's manifests, linted as far as is possible without Gramine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cli.verbs import leaves

FOLDER = Path(__file__).parents[2] / "deploy" / "gramine"
TEMPLATES = sorted(FOLDER.glob("*.manifest.template"))
VALUES = {
    "python": "/opt/perunml/bin/python3",
    "prefix": "/opt/perunml",
    "state": "/var/lib/perunml/state",
    "pin": "/etc/perunml/pin.json",
    "arch_libdir": "/lib/x86_64-linux-gnu",
    "log_level": "error",
    "gramine_runtimedir": "/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc",
}
KEYS: dict[str, type | tuple[type, ...]] = {
    "libos.entrypoint": str,
    "loader.log_level": str,
    "loader.argv": list,
    "loader.uid": int,
    "loader.gid": int,
    "sys.enable_sigterm_injection": bool,
    "sys.enable_extra_runtime_domain_names_conf": bool,
    "sys.disallow_subprocesses": bool,
    "sys.fds.limit": int,
    "sys.stack.size": str,
    "fs.mounts": list,
    "sgx.debug": bool,
    "sgx.remote_attestation": str,
    "sgx.enclave_size": str,
    "sgx.edmm_enable": bool,
    "sgx.max_threads": int,
    "sgx.isvprodid": int,
    "sgx.isvsvn": int,
    "sgx.trusted_files": list,
    "sgx.allowed_files": list,
}
"""What Gramine 1.6 and later document and these templates use ("Manifest syntax"); `loader.env.NAME` besides."""


def rendered(path: Path) -> dict[str, Any]:
    """As `gramine-manifest` does: variables alone stand in these templates, so replacing them is rendering them."""
    text = re.sub(r"\{\{ (\w+) \}\}", lambda found: VALUES[found[1]], path.read_text())
    assert "{{" not in text
    assert "{%" not in text
    return tomllib.loads(text)


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        key = f"{prefix}{name}"
        found |= flat(inner, f"{key}.") if isinstance(inner, dict) else {key: inner}
    return found


def test_there_are_templates() -> None:
    assert {path.name.split(".")[0] for path in TEMPLATES} == {"manager", "service"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_key_is_known_and_of_its_type(path: Path) -> None:
    for key, value in flat(rendered(path)).items():
        if key.startswith("loader.env."):
            assert isinstance(value, str)
            continue
        assert key in KEYS, key
        assert isinstance(value, KEYS[key]), key
        assert not (KEYS[key] is int and isinstance(value, bool)), key


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_nothing_is_insecure_and_nobody_debugs(path: Path) -> None:
    """No host environment, no command line from outside, no passed-through variable, no debug enclave; quotes by DCAP."""
    found = flat(rendered(path))
    assert not [key for key in found if "insecure" in key or key.endswith("passthrough")]
    assert found["sgx.debug"] is False
    assert found["sgx.remote_attestation"] == "dcap"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_sizes_are_powers_of_two(path: Path) -> None:
    """An enclave's size must be one."""
    found = re.fullmatch(r"(\d+)([KMG])", flat(rendered(path))["sgx.enclave_size"])
    assert found
    assert int(found[1]) & (int(found[1]) - 1) == 0


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_mounted_file_is_measured_but_for_state(path: Path) -> None:
    """Each mount of files lies under a trusted file or folder, or is the state; and only the state is allowed unmeasured."""
    found = rendered(path)
    trusted, allowed = found["sgx"]["trusted_files"], found["sgx"]["allowed_files"]
    assert allowed == [f"file:{VALUES['state']}/"]
    for mount in found["fs"]["mounts"]:
        if mount.get("type") == "tmpfs":
            assert set(mount) == {"type", "path"}
            continue
        assert set(mount) == {"path", "uri"}
        covered = [each for each in (*trusted, *allowed) if each in (mount["uri"], mount["uri"] + "/")]
        assert covered, mount
    # one key has one use: Gramine's key of this enclave wraps the manager's root key
    assert not [mount for mount in found["fs"]["mounts"] if mount.get("type") == "encrypted"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_the_command_is_one_of_ours(path: Path) -> None:
    """Verb and options exist, and the folders and files that it names are mounted."""
    found = rendered(path)
    words = found["loader"]["argv"][5:]
    verb = leaves()[" ".join(words[:2])]
    options = {name for parameter in verb.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    mounted = {mount["path"] for mount in found["fs"]["mounts"]}
    assert {word for word in words if word.startswith("/")} <= mounted
    assert found["libos"]["entrypoint"] in mounted


@pytest.mark.parametrize("path", [*TEMPLATES, FOLDER / "README.md"], ids=lambda path: path.name)
def test_it_says_that_it_was_not_run_on_hardware(path: Path) -> None:
    assert "not run on hardware" in path.read_text().lower()
