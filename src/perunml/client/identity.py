"""A party's identity: a key that signs and a key to which others seal, together under one passphrase."""

from __future__ import annotations

from dataclasses import dataclass

from perunml.client.codes import ALREADY_EXISTS, NO_IDENTITY
from perunml.client.home import Home, checked_name, write_file
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.passphrase import open_with_passphrase, seal_with_passphrase

LABEL = "perunml/identity"
KIND = "Identity"


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """What others may know: `identity` is the key that agreements name, `receive` what is sealed to."""

    name: str
    identity: str
    receive: str

    def as_json(self) -> dict[str, str]:
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "identity": self.identity,
            "receive": self.receive,
        }

    @classmethod
    def load(cls, home: Home) -> PublicIdentity:
        """Raises `UsageError` (no_identity, malformed). Needs no passphrase."""
        try:
            value = load_json(home.public.read_bytes())
        except FileNotFoundError:
            raise _missing(home) from None
        if not isinstance(value, dict) or set(value) != {"apiVersion", "kind", "name", "identity", "receive"}:
            raise refuse(MALFORMED, f"{home.public.name} is not an {KIND}", seen=str(home.public))
        made = cls(checked_name(value["name"]), str(value["identity"]), str(value["receive"]))
        PublicKey(made.identity)
        HpkePublicKey(made.receive)
        return made


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Both private keys in memory."""

    name: str
    signing: SigningKey
    receiving: HpkePrivateKey

    @property
    def public(self) -> PublicIdentity:
        return PublicIdentity(self.name, self.signing.public.text, self.receiving.public.text)

    def __repr__(self) -> str:
        return f"<Identity {self.name} {self.signing.public.text}>"

    @classmethod
    def create(cls, home: Home, name: str, passphrase: bytes, *, algorithm: str = "ed25519") -> Identity:
        """New keys, sealed into the home folder. Raises `UsageError` (already_exists): keys are never overwritten."""
        made = cls(checked_name(name), SigningKey.generate(algorithm), HpkePrivateKey.generate())
        secret = canonical(
            {"name": name, "signing": b64(made.signing.secret()), "receiving": b64(made.receiving.secret())}
        )
        home.create()
        try:
            write_file(home.identity, seal_with_passphrase(secret, passphrase, LABEL), mode=0o600, replace=False)
        except FileExistsError:
            raise refuse(
                ALREADY_EXISTS,
                "this home folder has an identity already",
                expected="a folder without one",
                seen=str(home.identity),
                command="perunml id show",
            ) from None
        write_file(home.public, canonical(made.public.as_json()))
        return made

    @classmethod
    def open(cls, home: Home, passphrase: bytes) -> Identity:
        """Raises `UsageError` (no_identity) or `IntegrityError` (unseal_failed: wrong passphrase, or altered)."""
        try:
            sealed = home.identity.read_bytes()
        except FileNotFoundError:
            raise _missing(home) from None
        value = load_json(open_with_passphrase(sealed, passphrase, LABEL))
        made = cls(
            value["name"],
            SigningKey.from_secret(unb64(value["signing"])),
            HpkePrivateKey(unb64(value["receiving"])),
        )
        if not home.public.exists():  # a crash between the two writes of `create`
            write_file(home.public, canonical(made.public.as_json()))
        return made


def _missing(home: Home) -> Exception:
    return refuse(
        NO_IDENTITY,
        "there is no identity here",
        expected="identity.json",
        seen=str(home.folder),
        command="perunml id create --name NAME",
    )
