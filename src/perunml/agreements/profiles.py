"""What a host must prove, by name: ``measured``, ``tee``, ``gpu-cc``, ``simulated``; two of them bound
together (``{all_of: […], binder: …}``); or ``{any_of: [profiles]}``.

What a profile leaves out is refused, never "not checked". ``simulated`` meets nothing but an agreement that literally says
``simulated``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    PlainValidator,
    Strict,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from perunml.agreements.forms import Digest, FieldName, Items, Part, Unique
from perunml.wire.canonical import canonical
from perunml.wire.digests import digest_of
from perunml.wire.errors import PerunError

_KINDS = ("sgx", "tdx", "snp", "gpu")
MAX_RULES = 64 * 1024
"""Bytes of one TEE's rules as canonical JSON: measurements of some releases, a boot's digests."""
MAX_DEPTH = 4
_DIGEST = "sha256:[0-9a-f]{64}"
_IDENTITY = f"(ek|simulated|platform|chip|gpu|tee):{_DIGEST}"

MachineName = Annotated[str, StringConstraints(pattern=rf"^{_IDENTITY}(\+{_IDENTITY}){{0,19}}$")]
"""A machine's identity: of its TPM (``ek``), its Intel platform, AMD chip or GPU, an enrolled TEE without any (``tee``), or a
simulated machine's key. Several, joined by ``+``, are one machine that must prove all of them."""


def _frozen(value: Any, depth: int = 0) -> Any:
    """JSON that nobody can change afterwards: texts, whole numbers, true and false, lists and objects of them."""
    if isinstance(value, (bool, str, int)):
        return value
    if depth < MAX_DEPTH and isinstance(value, (list, tuple)):
        return tuple(_frozen(item, depth + 1) for item in value)
    if depth < MAX_DEPTH and isinstance(value, (dict, MappingProxyType)) and all(isinstance(key, str) for key in value):
        return MappingProxyType({key: _frozen(item, depth + 1) for key, item in value.items()})
    raise PydanticCustomError(
        "malformed", "rules are texts, whole numbers, true or false, and lists and objects of them"
    )


def plain(value: Any) -> Any:
    """What `_frozen` froze, as JSON's own types again."""
    if isinstance(value, MappingProxyType):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def _rules(value: Any) -> Any:
    if not isinstance(value, (dict, MappingProxyType)) or not value:
        raise PydanticCustomError("malformed", "rules are an object with at least one member")
    made = _frozen(value)
    try:
        size = len(canonical(plain(made)))
    except PerunError:
        raise PydanticCustomError("malformed", "rules are not canonical JSON") from None
    if size > MAX_RULES:
        raise PydanticCustomError("malformed", "rules are too long")
    return made


TeeRules = Annotated[
    Mapping[str, Any],
    PlainValidator(_rules),
    WithJsonSchema(
        {"type": "object", "minProperties": 1, "additionalProperties": True, "$comment": "docs/spec/tee.md"}
    ),
]
"""What one TEE, or the GPUs, must show. What its members mean is said by that kind's appraisal (docs/spec/tee.md), which reads
them strictly before an agreement is proposed."""


class _Profile(Part):
    machines: Unique[MachineName] = ()
    """The machines that may take part; each is approved with the agreement."""

    @property
    def baseline_digest(self) -> str:
        """Digest of the Baseline that a host is appraised under; empty where the profile has none."""
        return getattr(self, "baseline", None) or ""

    @property
    def baseline_signer(self) -> str:
        """The party whose board must have signed the baseline; empty where anybody may have."""
        return getattr(self, "baseline_by", None) or ""

    @property
    def judged_by(self) -> str:
        """What an appraisal must say it was made under (`Appraisal.baseline`): the baseline's digest, or the digest of the
        measurements that a TEE's profile writes out; empty for a bare ``simulated``."""
        return digest_of(self.rules) if self.rules else self.baseline_digest

    @property
    def rules(self) -> dict[str, Any]:
        """What the profile writes out of TEEs and GPUs, by kind: ``sgx``, ``tdx``, ``snp``, ``gpu``; JSON."""
        return {kind: plain(found) for kind in _KINDS if (found := getattr(self, kind, None)) is not None}

    @property
    def imitated(self) -> str:
        """For ``simulated``: the profile whose checks must have been run, or empty."""
        return getattr(self, "imitates", None) or ""


class Measured(_Profile):
    """TPM 2.0, measured boot and IMA, any GPU."""

    profile: Literal["measured"]
    baseline: Digest
    baseline_by: FieldName | None = None
    """The party whose board must have signed the baseline's document; its digest pins it in any case."""
    machines: Unique[Annotated[MachineName, StringConstraints(pattern="^(ek|platform|chip):")]]
    min_driver: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}(\.[0-9]{1,5}){0,3}$")] | None = None


class Tee(_Profile):
    """A trusted execution environment: exactly one of SGX, TDX or SEV-SNP per alternative."""

    profile: Literal["tee"]
    sgx: TeeRules | None = None
    tdx: TeeRules | None = None
    snp: TeeRules | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Tee:
        if len(self.rules) != 1:
            raise PydanticCustomError("malformed", "a tee profile has the rules of exactly one of sgx, tdx, snp")
        return self


class GpuCc(_Profile):
    """A confidential VM and its NVIDIA GPU in CC mode."""

    profile: Literal["gpu-cc"]
    tdx: TeeRules | None = None
    snp: TeeRules | None = None
    gpu: TeeRules

    @model_validator(mode="after")
    def _one_kind(self) -> GpuCc:
        if len(self.rules) != 2:
            raise PydanticCustomError("malformed", "a gpu-cc profile has the rules of tdx or snp, and of the gpu")
        return self


class Simulated(_Profile):
    """No proof at all: a software TPM, a bare key, or evidence under a development root. For development and for showing
    how the real thing runs. It says what the profile says that it imitates."""

    profile: Literal["simulated"]
    imitates: Literal["measured", "tee", "gpu-cc"] | None = None
    baseline: Digest | None = None
    baseline_by: FieldName | None = None
    sgx: TeeRules | None = None
    tdx: TeeRules | None = None
    snp: TeeRules | None = None
    gpu: TeeRules | None = None

    @model_validator(mode="after")
    def _as_imitated(self) -> Simulated:
        if (self.imitates == "measured") != (self.baseline is not None):
            raise PydanticCustomError("malformed", "`imitates: measured` and `baseline` come together")
        if self.baseline_by is not None and self.baseline is None:
            raise PydanticCustomError("malformed", "`baseline_by` says who signed a `baseline`, and there is none")
        tees = [kind for kind in self.rules if kind != "gpu"]
        if len(tees) > 1 or (tees and self.imitates not in ("tee", "gpu-cc")):
            raise PydanticCustomError(
                "malformed", "a TEE's rules are of one kind, and come with `imitates: tee` or gpu-cc"
            )
        if (self.imitates == "gpu-cc") != (self.gpu is not None) or (
            self.gpu is not None and tees not in (["tdx"], ["snp"])
        ):
            raise PydanticCustomError(
                "malformed", "`imitates: gpu-cc` comes with the rules of tdx or snp, and of the gpu"
            )
        return self


_CLASSES: Mapping[type, str] = {Measured: "<measured>", Simulated: "<simulated>", Tee: "<tee>", GpuCc: "<gpu-cc>"}


def _tag(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((f"<{key}>" for key in ("any_of", "all_of") if key in value), f"<{value.get('profile')}>")
    return "<all_of>" if isinstance(value, AllOf) else _CLASSES.get(type(value), "<any_of>")


_WHAT = (
    "a host says `profile: measured`, tee, gpu-cc or simulated, `all_of` with two of those and a `binder`, or `any_of` with a "
    "list of such"
)
SingleProfile = Annotated[
    Annotated[Measured, Tag("<measured>")]
    | Annotated[Simulated, Tag("<simulated>")]
    | Annotated[Tee, Tag("<tee>")]
    | Annotated[GpuCc, Tag("<gpu-cc>")],
    Discriminator(_tag, custom_error_type="malformed", custom_error_message=_WHAT),
]
Binder = Literal["machines", "pcr", "tpm-key", "vtpm"]


class AllOf(Part):
    """A TEE and a TPM of one machine: both are proven, and that they belong together (docs/spec/tee.md, section "Binders")."""

    all_of: Annotated[tuple[SingleProfile, ...], Strict(False), Field(min_length=2, max_length=2)]
    binder: Binder
    """What refuses a TPM's answers from another machine: approved pairs of identities, the TEE's key in a PCR, a TPM key that
    only this TEE can use, or a cloud's TEE that vouches for its virtual TPM's key."""
    machines: Unique[MachineName] = ()

    @model_validator(mode="after")
    def _a_pair(self) -> AllOf:
        if [_is_tee(part) for part in self.all_of].count(True) != 1:
            raise PydanticCustomError(
                "malformed", "`all_of` has one TEE's profile, and `measured` (or what imitates it)"
            )
        if any(isinstance(part, Simulated) and not part.judged_by for part in self.all_of):
            raise PydanticCustomError(
                "malformed", "a simulated profile of `all_of` says what it imitates, and the rules of it"
            )
        if any(isinstance(part, Simulated) and part.machines for part in self.all_of):
            raise PydanticCustomError(
                "malformed", "machines stand beside `all_of`, not in a simulated profile inside it"
            )
        if self.binder == "machines" and not (self.machines and all(map(_a_tuple, self.machines))):
            what = "`binder: machines` names pairs of identities: `machines: [ek:sha256:…+chip:sha256:…]`"
            raise PydanticCustomError("malformed", "{what}", {"what": what})
        return self

    @property
    def profile(self) -> str:
        """The names of what must be achieved, joined: ``measured+tee``; ``simulated`` where one of them is."""
        if any(isinstance(part, Simulated) for part in self.all_of):
            return "simulated"
        return "+".join(sorted(part.profile for part in self.all_of))

    @property
    def imitated(self) -> str:
        """As a profile's."""
        if self.profile != "simulated":
            return ""
        return "+".join(sorted(part.imitated or part.profile for part in self.all_of))

    @property
    def baseline_digest(self) -> str:
        """As a profile's."""
        return "".join(part.baseline_digest for part in self.all_of)

    @property
    def baseline_signer(self) -> str:
        """As a profile's."""
        return "".join(part.baseline_signer for part in self.all_of)

    @property
    def judged_by(self) -> str:
        """As a profile's: digest of both parts' and the binder."""
        return digest_of({"all_of": sorted(part.judged_by for part in self.all_of), "binder": self.binder})

    @property
    def rules(self) -> dict[str, Any]:
        """As a profile's."""
        return {kind: rules for part in self.all_of for kind, rules in part.rules.items()}


def _is_tee(part: Measured | Simulated | Tee | GpuCc) -> bool:
    return isinstance(part, (Tee, GpuCc)) or (isinstance(part, Simulated) and part.imitates != "measured")


def _a_tuple(machine: str) -> bool:
    return "+" in machine


HostProfile = Annotated[
    Annotated[Measured, Tag("<measured>")]
    | Annotated[Simulated, Tag("<simulated>")]
    | Annotated[Tee, Tag("<tee>")]
    | Annotated[GpuCc, Tag("<gpu-cc>")]
    | Annotated[AllOf, Tag("<all_of>")],
    Discriminator(_tag, custom_error_type="malformed", custom_error_message=_WHAT),
]


class AnyOf(Part):
    """One of several profiles will do."""

    any_of: Items[HostProfile]


HostRole = Annotated[
    Annotated[Measured, Tag("<measured>")]
    | Annotated[Simulated, Tag("<simulated>")]
    | Annotated[Tee, Tag("<tee>")]
    | Annotated[GpuCc, Tag("<gpu-cc>")]
    | Annotated[AllOf, Tag("<all_of>")]
    | Annotated[AnyOf, Tag("<any_of>")],
    Discriminator(_tag, custom_error_type="malformed", custom_error_message=_WHAT),
]

AnyProfile = Measured | Simulated | Tee | GpuCc | AllOf


def alternatives(role: AnyProfile | AnyOf) -> tuple[AnyProfile, ...]:
    """The profiles of which a host must meet one."""
    return role.any_of if isinstance(role, AnyOf) else (role,)


def allows_simulated(role: AnyProfile | AnyOf) -> bool:
    """Whether the role literally says ``simulated``."""
    return any(profile.profile == "simulated" for profile in alternatives(role))


def only_simulated(role: AnyProfile | AnyOf) -> bool:
    """Whether nothing but ``simulated`` can meet the role."""
    return all(profile.profile == "simulated" for profile in alternatives(role))
