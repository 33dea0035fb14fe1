"""A whole agreement to break in one place at a time."""

from __future__ import annotations

import copy
import functools
from typing import Any

from perunml.wire.hpke import HpkePrivateKey
from perunml.wire.identity import SigningKey

NAMES = ("manager", "st-vitus/dr-a", "st-vitus/dr-b", "st-vitus/dpo", "acme/ml", "gpu-cloud/ops", "clinic/desk")


@functools.cache
def key(name: str) -> SigningKey:
    """A signing key by name; the same one each time."""
    return SigningKey.from_secret(name.encode().ljust(32, b".")[:32])


@functools.cache
def receiving(name: str) -> HpkePrivateKey:
    return HpkePrivateKey(name.encode().ljust(96, b".")[:96])


def sha(character: str) -> str:
    return "sha256:" + character * 64


MACHINE = "ek:" + sha("e")
SIMULATED = "simulated:" + sha("5")

_DOCUMENT: dict[str, Any] = {
    "apiVersion": "perunml/v1",
    "kind": "Agreement",
    "metadata": {"name": "brain-mri-2027"},
    "manager": {"key": "", "profile": {"profile": "simulated"}},
    "witnesses": {"at_least": 1, "of": ["st-vitus", "acme"]},
    "parties": {
        "st-vitus": {
            "keys": {"dr-a": "", "dr-b": "", "dpo": ""},
            "approve": {"all": ["dpo", {"at_least": 1, "of": ["dr-a", "dr-b"]}]},
        },
        "acme": {"keys": {"ml": ""}},
        "gpu-cloud": {"keys": {"ops": ""}},
        "clinic": {"keys": {"desk": ""}},
    },
    "assets": {
        "scans": {"kind": "dataset", "owner": "st-vitus", "digest": sha("a")},
        "unet": {"kind": "code", "owner": "acme", "digest": sha("b"), "entry": "train.py"},
    },
    "hosts": {
        "trainer": {"profile": "measured", "baseline": sha("c"), "machines": [MACHINE]},
        "inference": {
            "any_of": [
                {"profile": "tee", "tdx": {"mr_td": ["00" * 48]}},
                {"profile": "tee", "snp": {"measurement": ["11" * 48]}},
                {"profile": "simulated", "imitates": "tee"},
            ]
        },
    },
    "jobs": {
        "train": {
            "code": "unet",
            "inputs": {"scans": "/in/scans"},
            "hosts": "trainer",
            "operator": "gpu-cloud",
            "parameters": {
                "epochs": {"max": 50},
                "batch_size": {"in": [16, 32]},
                "rate": {"min": 0.001, "max": 0.1},
                "seed": {"value": 7},
            },
            "limits": {"runs": 3, "until": "2027-06-30T00:00:00Z", "wall": "8h", "resumes": 1},
            "network": "none",
            "lease": "30s",
            "outputs": {
                "model": {
                    "to": "acme",
                    "format": "pt2",
                    "max_size": "500MiB",
                    "use": ["serve"],
                    "release": {"approve": ["st-vitus"]},
                },
                "metrics": {"to": ["acme", "st-vitus"], "fields": ["epoch", "loss", "dice"]},
            },
        },
        "serve": {
            "model": "train.outputs.model",
            "engine": "torch-export",
            "hosts": "inference",
            "operator": "gpu-cloud",
            "clients": ["clinic"],
            "limits": {"requests": "10000/day", "until": "2027-12-31T00:00:00Z"},
            "lease": "30s",
        },
    },
}


def document() -> dict[str, Any]:
    """A fresh copy that may be changed: DESIGN section 5's sketch."""
    made = copy.deepcopy(_DOCUMENT)
    made["manager"]["key"] = key("manager").public.text
    for name, party in made["parties"].items():
        for key_name in party["keys"]:
            party["keys"][key_name] = key(f"{name}/{key_name}").public.text
    for name in ("st-vitus", "acme"):
        made["parties"][name]["receive"] = receiving(name).public.text
    return made


def simulated() -> dict[str, Any]:
    """The demo's kind of agreement: every host simulated, witnesses waived."""
    made = document()
    made["witnesses"] = {"waived_because_simulated": True}
    made["hosts"] = {
        "trainer": {
            "profile": "simulated",
            "imitates": "measured",
            "baseline": sha("c"),
            "machines": [SIMULATED, MACHINE],
        },
        "inference": {"profile": "simulated", "imitates": "tee"},
    }
    return made


def edit(made: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set ``a/b/c``; the value `DROP` removes it."""
    *steps, last = path.split("/")
    at: Any = made
    for step in steps:
        at = at[int(step) if isinstance(at, list) else step]
    if value is DROP:
        del at[last]
    else:
        at[last] = value
    return made


class _Drop:
    def __repr__(self) -> str:
        return "dropped"


DROP = _Drop()
