"""A party's identity: a key that signs and a key to which others seal, together under one passphrase."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perunml.client.codes import ALREADY_EXISTS, KEY_FORGOTTEN, NO_IDENTITY
from perunml.client.home import Home, checked_name, write_file
from perunml.sealing.keys import WrappedKeys, unwrap_key
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import API_VERSION
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import IntegrityError, refuse
from perunml.wire.hpke import HpkePrivateKey, HpkePublicKey
from perunml.wire.identity import PublicKey, SigningKey
from perunml.wire.passphrase import open_with_passphrase, seal_with_passphrase

if TYPE_CHECKING:
    from perunml.sealing.manifest import Manifest

LABEL = "perunml/identity"
KIND = "Identity"


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """What others may know: `identity` is the key that agreements name, `receive` what is sealed to; `next` the two that shall replace
    them, `former` keys that were replaced, and whether their private halves are kept."""

    name: str
    identity: str
    receive: str
    next: tuple[str, str] | None = None
    former: tuple[tuple[str, bool], ...] = ()

    def as_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "identity": self.identity,
            "receive": self.receive,
        }
        if self.next is not None:
            made["next"] = {"identity": self.next[0], "receive": self.next[1]}
        if self.former:
            made["former"] = [{"identity": key, "kept": kept} for key, kept in self.former]
        return made

    @classmethod
    def load(cls, home: Home) -> PublicIdentity:
        """Raises `UsageError` (no_identity, malformed). Needs no passphrase."""
        try:
            value = load_json(home.public.read_bytes())
        except FileNotFoundError:
            raise _missing(home) from None
        try:
            if set(value) - {"next", "former"} != {"apiVersion", "kind", "name", "identity", "receive"}:
                raise TypeError
            next_ = (value["next"]["identity"], value["next"]["receive"]) if "next" in value else None
            former = tuple((PublicKey(item["identity"]).text, bool(item["kept"])) for item in value.get("former", ()))
        except (TypeError, KeyError, AttributeError):
            raise refuse(MALFORMED, f"{home.public.name} is not an {KIND}", seen=str(home.public)) from None
        made = cls(checked_name(value["name"]), str(value["identity"]), str(value["receive"]), next_, former)
        for key, receive in ((made.identity, made.receive), *([made.next] if made.next else ())):
            PublicKey(key)
            HpkePublicKey(receive)
        return made


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """A signing key and the receiving key that goes with it."""

    signing: SigningKey
    receiving: HpkePrivateKey

    @classmethod
    def generate(cls, algorithm: str = "ed25519") -> Pair:
        return cls(SigningKey.generate(algorithm), HpkePrivateKey.generate())

    def __repr__(self) -> str:
        return f"<Pair {self.signing.public.text}>"


@dataclass(frozen=True, slots=True, repr=False)
class Former:
    """Keys that were replaced: their public halves for good, `pair` until it is forgotten."""

    signing: str
    receiving: str
    pair: Pair | None

    def __repr__(self) -> str:
        return f"<Former {self.signing}>"


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """The private keys in memory: those in use, those that shall replace them (`next`), and those that were replaced, newest first."""

    name: str
    signing: SigningKey
    receiving: HpkePrivateKey
    next: Pair | None = None
    former: tuple[Former, ...] = ()

    @property
    def public(self) -> PublicIdentity:
        return PublicIdentity(
            self.name,
            self.signing.public.text,
            self.receiving.public.text,
            (self.next.signing.public.text, self.next.receiving.public.text) if self.next else None,
            tuple((former.signing, former.pair is not None) for former in self.former),
        )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All keys that are here: in use, next, former."""
        rest = (self.next, *(former.pair for former in self.former))
        return (Pair(self.signing, self.receiving), *(pair for pair in rest if pair is not None))

    @property
    def own_keys(self) -> list[PublicKey]:
        """Keys that may have signed what lies in this home, those that were forgotten too."""
        return [self.signing.public, *(PublicKey(former.signing) for former in self.former)]

    def signer(self, key: str) -> SigningKey:
        """The private half of an own key (text). Raises `UsageError` (key_forgotten)."""
        for pair in self.pairs:
            if pair.signing.public.text == key:
                return pair.signing
        raise refuse(KEY_FORGOTTEN, "this home has forgotten that key", expected=self.signing.public.text, seen=key)

    def unseal(self, sealed: bytes, info: dict[str, Any]) -> bytes:
        """What was sealed to any of this party's receiving keys. Raises `IntegrityError` (unseal_failed)."""
        for pair in self.pairs[1:]:
            with contextlib.suppress(IntegrityError):
                return pair.receiving.open(sealed, info)
        return self.receiving.open(sealed, info)

    def data_key(self, keys: WrappedKeys, manifest: Manifest) -> bytearray:
        """An own asset's data key, by whichever wrap one of this party's keys opens. Raises `IntegrityError` (wrap_missing, unseal_failed)."""
        held = {wrap.recipient for wrap in keys.wraps}
        for pair in self.pairs:
            if pair.receiving.public.id in held:
                return unwrap_key(keys.find(pair.receiving.public), manifest, pair.receiving)
        return unwrap_key(keys.find(self.receiving.public), manifest, self.receiving)

    def __repr__(self) -> str:
        return f"<Identity {self.name} {self.signing.public.text}>"

    @classmethod
    def create(cls, home: Home, name: str, passphrase: bytes, *, algorithm: str = "ed25519") -> Identity:
        """New keys, sealed into the home folder. Raises `UsageError` (already_exists): keys are never overwritten."""
        made = cls(checked_name(name), SigningKey.generate(algorithm), HpkePrivateKey.generate())
        home.create()
        try:
            made.save(home, passphrase, replace=False)
        except FileExistsError:
            raise refuse(
                ALREADY_EXISTS,
                "this home folder has an identity already",
                expected="a folder without one",
                seen=str(home.identity),
                command="perunml id show",
            ) from None
        return made

    def save(self, home: Home, passphrase: bytes, *, replace: bool = True) -> None:
        """Seal all keys into the home folder, the whole of it or none. Raises `FileExistsError` unless it may `replace`."""
        value: dict[str, Any] = {"name": self.name, **_secrets(Pair(self.signing, self.receiving))}
        if self.next is not None:
            value["next"] = _secrets(self.next)
        if self.former:
            value["former"] = [
                _secrets(former.pair) if former.pair else {"identity": former.signing, "receive": former.receiving}
                for former in self.former
            ]
        sealed = seal_with_passphrase(canonical(value), passphrase, LABEL)
        write_file(home.identity, sealed, mode=0o600, replace=replace)
        write_file(home.public, canonical(self.public.as_json()))

    @classmethod
    def open(cls, home: Home, passphrase: bytes) -> Identity:
        """Raises `UsageError` (no_identity) or `IntegrityError` (unseal_failed: wrong passphrase, or altered)."""
        try:
            sealed = home.identity.read_bytes()
        except FileNotFoundError:
            raise _missing(home) from None
        value = load_json(open_with_passphrase(sealed, passphrase, LABEL))
        pair = _pair(value)
        next_ = _pair(value["next"]) if "next" in value else None
        former = tuple(_former(item) for item in value.get("former", ()))
        made = cls(value["name"], pair.signing, pair.receiving, next_, former)
        public = canonical(made.public.as_json())
        if not home.public.exists() or home.public.read_bytes() != public:  # a crash between the two writes of `save`
            write_file(home.public, public)
        return made


def _secrets(pair: Pair) -> dict[str, str]:
    return {"signing": b64(pair.signing.secret()), "receiving": b64(pair.receiving.secret())}


def _pair(value: dict[str, str]) -> Pair:
    return Pair(SigningKey.from_secret(unb64(value["signing"])), HpkePrivateKey(unb64(value["receiving"])))


def _former(value: dict[str, str]) -> Former:
    if "identity" in value:
        return Former(value["identity"], value["receive"], None)
    pair = _pair(value)
    return Former(pair.signing.public.text, pair.receiving.public.text, pair)


def _missing(home: Home) -> Exception:
    return refuse(
        NO_IDENTITY,
        "there is no identity here",
        expected="identity.json",
        seen=str(home.folder),
        command="perunml id create --name NAME",
    )
