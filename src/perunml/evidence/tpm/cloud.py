"""Attestation keys' certificates of clouds: whose virtual machine is it, and is the certified key the one that quotes?

Google certifies a virtual machine's keys with an extension that names the instance; Azure names it in the subject. Both
certify their virtual TPMs only; a machine that shows such a certificate must be that instance (K17).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from perunml.evidence.codes import AK_CERTIFICATE
from perunml.evidence.tpm.certificate import DIGITAL_SIGNATURE, Certificate, parse_certificate
from perunml.evidence.tpm.chain import Trust, check_lists, find_path, path_reasons
from perunml.evidence.tpm.der import INTEGER, SEQUENCE, Der
from perunml.evidence.tpm.names import attributes
from perunml.evidence.tpm.public import PublicArea
from perunml.evidence.tpm.roots import SIMULATED, VIRTUAL
from perunml.wire.errors import error
from perunml.wire.rules import Reason

AK_USAGE = "2.23.133.8.3"
"""tcg-kp-AIKCertificate."""
GCE_INSTANCE = "1.3.6.1.4.1.11129.2.1.21"
"""Google's extension: zone, project's number and id, instance's id and name, security properties."""
VENDORS = {"gce": "Google Cloud", "azure": "Microsoft Azure"}
"""Whose root may vouch for a provider's instances: one cloud says nothing of another's."""
_UTF8 = 0x0C
_AZURE = re.compile(r"([0-9a-z-]{1,64})\.[A-Za-z]{1,32}\.Azure\.windows\.net")
_COMMON_NAME = "2.5.4.3"


@dataclass(frozen=True, slots=True)
class CloudInstance:
    """`provider` is ``gce`` or ``azure``, `instance` the provider's id for the virtual machine; `project` and `zone` where
    they are told; `simulated` where the root that vouches for it stands for no cloud."""

    provider: str
    instance: str
    project: str = ""
    zone: str = ""
    simulated: bool = False

    @property
    def name(self) -> str:
        """``gce:<project>/<zone>/<id>`` or ``azure:<id>``: stable over the machine's life."""
        return f"{self.provider}:" + "/".join(part for part in (self.project, self.zone, self.instance) if part)


def verify_ak_certificate(
    certificate: bytes,
    chain: Sequence[bytes],
    ak: PublicArea,
    *,
    trust: Trust,
    now: int,
    revocations: Sequence[bytes] = (),
    expected: str = "",
) -> CloudInstance:
    """The cloud instance whose attestation key `ak` is; `expected` is the `name` that enrolment recorded before.

    Raises `EvidenceRefusal` with every reason found: ak_certificate, ek_chain, ek_expired, ek_revoked,
    ek_revocation_unknown, weak_scheme, non_canonical.
    """
    check_lists(revocations)
    leaf = parse_certificate(certificate)
    reasons = []
    key = leaf.key()
    if key is None or key.public_numbers() != ak.key().public_numbers():
        reasons.append(Reason(AK_CERTIFICATE, "the certificate is for another key than the one that attests"))
    if leaf.usage is not None and not leaf.usage & DIGITAL_SIGNATURE:
        reasons.append(Reason(AK_CERTIFICATE, "the certified key is not for signing"))
    found = read_instance(leaf)
    if found is None:
        reasons.append(Reason(AK_CERTIFICATE, "the certificate names no cloud instance", seen=leaf.name))
    elif found.provider == "azure" and AK_USAGE not in leaf.usages:
        reasons.append(Reason(AK_CERTIFICATE, "not certified for an attestation key", expected=AK_USAGE))
    if found is not None and expected and found.name != expected:
        reasons.append(
            Reason(AK_CERTIFICATE, "the certificate is another instance's", expected=expected, seen=found.name)
        )
    path = find_path(leaf, chain, trust)
    if path is not None and path.root.kind not in (VIRTUAL, SIMULATED):
        reasons.append(Reason(AK_CERTIFICATE, "certified by no cloud", seen=path.root.vendor))
    elif path is not None and found is not None and path.root.kind == VIRTUAL:
        whose, seen = VENDORS[found.provider], path.root.vendor
        if seen != whose:
            reasons.append(Reason(AK_CERTIFICATE, "certified by another cloud's root", expected=whose, seen=seen))
    reasons.extend(path_reasons(path, leaf, AK_USAGE, trust, revocations, now))
    if reasons or found is None:
        raise error(reasons)
    assert path is not None  # else there is a reason
    return replace(found, simulated=path.root.kind == SIMULATED)


def read_instance(leaf: Certificate) -> CloudInstance | None:
    """What the certificate says, or None when it names no instance. Raises `EvidenceRefusal` (non_canonical)."""
    extension = dict(leaf.extensions).get(GCE_INSTANCE)
    if extension is not None:
        outer = Der(extension, "an instance's extension")
        reader = outer.within(SEQUENCE)
        outer.end()
        zone = _text(reader)
        reader.next(INTEGER)  # the project's number
        project = _text(reader)
        instance = int.from_bytes(reader.next(INTEGER).body)
        return CloudInstance("gce", str(instance), project, zone)
    names = [text for oid, text in attributes(leaf.subject) if oid == _COMMON_NAME]
    match = _AZURE.fullmatch(names[0]) if len(names) == 1 else None
    return CloudInstance("azure", match[1]) if match else None


def _text(reader: Der) -> str:
    return reader.next(_UTF8).body.decode("utf-8", "replace")
