"""What a host must prove, by name: ``measured``, ``tee``, ``gpu-cc``, ``simulated``; or ``{any_of: [profiles]}``.

What a profile leaves out is refused, never "not checked". ``simulated`` meets nothing but an agreement that literally says
``simulated``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, StringConstraints, Tag, model_validator
from pydantic_core import PydanticCustomError

from perunml.agreements.forms import Digest, FieldName, Items, MachineName, Part, Table, Unique
from perunml.wire.digests import digest_of

Measurement = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Measurements = Table[FieldName, Measurement]
"""A TEE's measurements by name, as text; which names count is the business of that TEE's appraisal."""


_KINDS = ("sgx", "tdx", "snp", "gpu")


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
        written = {kind: dict(found) for kind in _KINDS if (found := getattr(self, kind, None)) is not None}
        return digest_of(written) if written else self.baseline_digest

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
    machines: Unique[Annotated[str, StringConstraints(pattern="^ek:sha256:[0-9a-f]{64}$")]]
    min_driver: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}(\.[0-9]{1,5}){0,3}$")] | None = None


class Simulated(_Profile):
    """No proof at all: a software TPM or a bare key. For development and for showing how the real thing runs."""

    profile: Literal["simulated"]
    imitates: Literal["measured", "tee"] | None = None
    baseline: Digest | None = None
    baseline_by: FieldName | None = None

    @model_validator(mode="after")
    def _baseline_for_measured(self) -> Simulated:
        if (self.imitates == "measured") != (self.baseline is not None):
            raise PydanticCustomError("malformed", "`imitates: measured` and `baseline` come together")
        if self.baseline_by is not None and self.baseline is None:
            raise PydanticCustomError("malformed", "`baseline_by` says who signed a `baseline`, and there is none")
        return self


class Tee(_Profile):
    """A trusted execution environment: exactly one of SGX, TDX or SEV-SNP per alternative."""

    profile: Literal["tee"]
    sgx: Measurements | None = None
    tdx: Measurements | None = None
    snp: Measurements | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Tee:
        kinds = [kind for kind in (self.sgx, self.tdx, self.snp) if kind is not None]
        if len(kinds) != 1 or not kinds[0]:
            raise PydanticCustomError("malformed", "a tee profile has measurements of exactly one of sgx, tdx, snp")
        return self


class GpuCc(_Profile):
    """A confidential VM and its NVIDIA GPU in CC mode."""

    profile: Literal["gpu-cc"]
    tdx: Measurements | None = None
    snp: Measurements | None = None
    gpu: Measurements

    @model_validator(mode="after")
    def _one_kind(self) -> GpuCc:
        kinds = [kind for kind in (self.tdx, self.snp) if kind is not None]
        if len(kinds) != 1 or not kinds[0] or not self.gpu:
            raise PydanticCustomError("malformed", "a gpu-cc profile has measurements of tdx or snp, and of the gpu")
        return self


_CLASSES: Mapping[type, str] = {Measured: "<measured>", Simulated: "<simulated>", Tee: "<tee>", GpuCc: "<gpu-cc>"}


def _tag(value: Any) -> str | None:
    if isinstance(value, dict):
        return "<any_of>" if "any_of" in value else f"<{value.get('profile')}>"
    return _CLASSES.get(type(value), "<any_of>")


_WHAT = "a host says `profile: measured`, tee, gpu-cc or simulated, or `any_of` with a list of those"
HostProfile = Annotated[
    Annotated[Measured, Tag("<measured>")]
    | Annotated[Simulated, Tag("<simulated>")]
    | Annotated[Tee, Tag("<tee>")]
    | Annotated[GpuCc, Tag("<gpu-cc>")],
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
    | Annotated[AnyOf, Tag("<any_of>")],
    Discriminator(_tag, custom_error_type="malformed", custom_error_message=_WHAT),
]

AnyProfile = Measured | Simulated | Tee | GpuCc


def alternatives(role: AnyProfile | AnyOf) -> tuple[AnyProfile, ...]:
    """The profiles of which a host must meet one."""
    return role.any_of if isinstance(role, AnyOf) else (role,)


def allows_simulated(role: AnyProfile | AnyOf) -> bool:
    """Whether the role literally says ``simulated``."""
    return any(isinstance(profile, Simulated) for profile in alternatives(role))


def only_simulated(role: AnyProfile | AnyOf) -> bool:
    """Whether nothing but ``simulated`` can meet the role."""
    return all(isinstance(profile, Simulated) for profile in alternatives(role))
