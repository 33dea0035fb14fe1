"""Signed requests: honest ones pass, and each component altered, missing, reordered or replaced is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.encoding import b64
from perunml.wire.errors import AgreementRefusal, PerunError
from perunml.wire.httpsig import LIFETIME, MAX_LIFETIME, MAX_SKEW, TAG, content_digest, sign_request, verify_request
from perunml.wire.identity import SigningKey

ED, HSM = SigningKey.from_secret(bytes(range(32))), SigningKey(ec.derive_private_key(0xC0FFEE, ec.SECP384R1()))
NOW = 1_800_000_000
URL = "https://manager.example:8443/v1/runs?agreement=x&n=1"
BODY = b'{"a":1}'
PARTS = '("@method" "@authority" "@path" "@query" "content-digest")'

Request = dict[str, Any]


def request(key: SigningKey = ED, **changed: Any) -> Request:
    return {
        "method": "POST", "authority": "manager.example:8443", "path": "/v1/runs", "query": "agreement=x&n=1",
        "headers": sign_request("POST", URL, BODY, key, NOW), "body": BODY, "now": NOW, **changed,
    }  # fmt: skip


def refused(call: Request, code: str = "request_unsigned") -> PerunError:
    with pytest.raises(AgreementRefusal) as caught:
        verify_request(**call)
    assert caught.value.code == code
    return caught.value


def hand_signed(
    params: str, *, base: str | None = None, key: SigningKey = ED, label: str = "perunml"
) -> dict[str, str]:
    """Headers with a genuine signature over whatever `params` say: what a client with other ideas might send."""
    if base is None:
        base = (
            '"@method": POST\n"@authority": manager.example:8443\n"@path": /v1/runs\n"@query": ?agreement=x&n=1\n'
            f'"content-digest": {content_digest(BODY)}\n'
        )
    signature = key.sign(f'{base}"@signature-params": {params}'.encode())
    return {
        "content-digest": content_digest(BODY),
        "signature-input": f"{label}={params}",
        "signature": f"{label}=:{base64.b64encode(signature).decode()}:",
    }


def params(**changed: Any) -> str:
    values = {
        "created": NOW,
        "expires": NOW + 60,
        "nonce": f'"{b64(bytes(16))}"',
        "keyid": f'"{ED.public.text}"',
        "alg": '"ed25519"',
        "tag": f'"{TAG}"',
        **changed,
    }
    return PARTS + "".join(f";{name}={value}" for name, value in values.items())


@pytest.mark.parametrize("key", [ED, HSM], ids=["ed25519", "p384"])
def test_an_honest_request_passes(key: SigningKey) -> None:
    """And tells who asked, with a nonce that never repeats."""
    first, second = verify_request(**request(key)), verify_request(**request(key))
    assert (first.key, first.created, first.expires) == (key.public, NOW, NOW + LIFETIME)
    assert first.nonce != second.nonce
    assert verify_request(**{**request(key), "authority": "MANAGER.example:8443", "method": "post"}).key == key.public


def test_the_signature_is_rfc_9421s() -> None:
    """Section 2.5: the base spelled out by hand verifies, and so does a request signed by hand."""
    headers = sign_request("POST", URL, BODY, ED, NOW)
    line = headers["signature-input"].removeprefix("perunml=")
    base = (
        '"@method": POST\n"@authority": manager.example:8443\n"@path": /v1/runs\n"@query": ?agreement=x&n=1\n'
        f'"content-digest": {content_digest(BODY)}\n"@signature-params": {line}'
    )
    ED.public.verify(base64.b64decode(headers["signature"][9:-1]), base.encode())
    assert verify_request(**request(headers=hand_signed(params()))).nonce == b64(bytes(16))


def test_rfc_9530_digest_of_a_body() -> None:
    """RFC 9530 appendix D's second example."""
    assert content_digest(b'{"hello": "world"}\n') == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"}, {"method": "DELETE"}, {"authority": "manager.example"}, {"authority": "manager.example:8444"},
        {"authority": "other.example:8443"}, {"authority": ""}, {"path": "/v1/runs/"}, {"path": "/v1/Runs"}, {"path": "/v1"},
        {"path": "/v1/%72uns"}, {"path": "/v1/../v1/runs"}, {"query": ""}, {"query": "n=1&agreement=x"}, {"query": "agreement=x&n=1&"},
        {"query": "agreement=x&n=2"}, {"query": "?agreement=x&n=1"}, {"body": b""}, {"body": b'{"a":2}'}, {"body": BODY + b"\n"},
    ],
)  # fmt: skip
def test_each_altered_component_is_refused(changed: Request) -> None:
    """Method, authority, path, query, body."""
    refused(request(**changed))


@pytest.mark.parametrize("name", ["content-digest", "signature-input", "signature"])
@pytest.mark.parametrize("value", [None, "", "x", "perunml=", "perunml=::", "é", "\ud800", "A" * 100_000])
def test_p13_a_missing_or_broken_header_is_refused(name: str, value: str | None) -> None:
    """P13: missing is never let through."""
    call = request()
    headers = {**call["headers"], name: value}
    refused({**call, "headers": {k: v for k, v in headers.items() if v is not None}})


def test_p13_a_request_without_any_signature_is_refused() -> None:
    """P13: also with a body digest, and also with a bearer token."""
    refused(request(headers={}))
    refused(request(headers={"content-digest": content_digest(BODY)}))
    refused(request(headers={"authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}))


def test_the_digest_of_another_body_is_refused() -> None:
    """The header must be the body's, and the one that was signed; other algorithms and lists are not read."""
    call = request()
    for value in (
        content_digest(b"other"),
        content_digest(BODY).replace("sha-256", "sha-512"),
        content_digest(BODY) + ", " + content_digest(b"other"),
        content_digest(BODY).upper(),
        " " + content_digest(BODY),
    ):
        refused({**call, "headers": {**call["headers"], "content-digest": value}})
    other = {**call["headers"], "content-digest": content_digest(b"other")}
    refused({**call, "headers": other, "body": b"other"})


@pytest.mark.parametrize(
    "covered",
    [
        "()", '("@method")', '("@method" "@authority" "@path" "@query")', '("content-digest")',
        '("@authority" "@method" "@path" "@query" "content-digest")', '("@method" "@authority" "@path" "@query" "content-digest" "date")',
        '("@method" "@authority" "@path" "@query" "content-digest" "content-digest")', '("@method" "@authority" "@path" "@query" "content-digest";req)',
        '("@method" "@authority" "@target-uri" "content-digest")',
    ],
)  # fmt: skip
def test_other_covered_components_are_refused(covered: str) -> None:
    """A genuine signature that covers nothing, less, more, or in another order."""
    line = params().replace(PARTS, covered)
    names = [part for part in covered.strip("()").split(" ") if part]
    lines = {
        '"@method"': "POST", '"@authority"': "manager.example:8443", '"@path"': "/v1/runs", '"@query"': "?agreement=x&n=1",
        '"content-digest"': content_digest(BODY), '"@target-uri"': URL, '"date"': "x",
    }  # fmt: skip
    base = "".join(f"{name}: {lines.get(name, '')}\n" for name in names)
    refused(request(headers=hand_signed(line, base=base)))


@pytest.mark.parametrize(
    "line",
    [
        params(tag='"other"'), params(tag='"perunml-v2"'), params(alg='"none"'), params(alg='"hmac-sha256"'), params(alg='"ecdsa-p384-sha384"'),
        params(alg='"rsa-v1_5-sha256"'), params(alg='""'), params(nonce='""'), params(nonce='"short"'), params(nonce='"AAAAAAAAAAAAAAAAAAAAAA=="'),
        params(nonce=f'"{b64(bytes(17))}"'), params(keyid='"x"'), params(keyid='"../key"'), params(keyid=f'"{HSM.public.text}"'),
        params(keyid='"ed25519:AAAA"'), params(created="-5"), params(created=f'"{NOW}"'), params(created=f"{NOW}.0"), params(created=""),
        params(created="٣"), params(expires="9" * 13), params(more='"x"'), params()[: params().index(";tag")],
        params().replace(";nonce=", ";Nonce="), params() + ";tag=\"x\"", params().replace(f";created={NOW}", "") + f";created={NOW}",
        params() + ' ', params() + "\n", params(created=f"{NOW};created={NOW + 1}"),
    ],
)  # fmt: skip
def test_p14_other_parameters_are_refused(line: str) -> None:
    """P14, C8: another tag, no or another algorithm, no nonce, another or doubled parameter, although genuinely signed."""
    refused(request(headers=hand_signed(line)))


def test_other_labels_and_second_signatures_are_refused() -> None:
    """There is one signature and it is ours to name."""
    refused(request(headers=hand_signed(params(), label="sig1")))
    one, two = hand_signed(params()), hand_signed(params(), label="sig1")
    joined = {name: f"{one[name]}, {two[name]}" for name in ("signature-input", "signature")}
    refused(request(headers={**one, **joined}))


def test_another_keys_signature_is_refused() -> None:
    """keyid says ours, somebody else signed; the refusal holds neither body nor signature."""
    headers = hand_signed(params(), key=SigningKey.generate())
    error = refused(request(headers=headers))
    assert headers["signature"] not in str(error.reasons)


def test_every_flipped_byte_of_a_signature_is_refused() -> None:
    """Each of the 64."""
    call = request()
    raw = base64.b64decode(call["headers"]["signature"][9:-1])
    for at in range(64):
        changed = bytearray(raw)
        changed[at] ^= 1
        value = f"perunml=:{base64.b64encode(changed).decode()}:"
        refused({**call, "headers": {**call["headers"], "signature": value}})


@pytest.mark.parametrize("delta", [-MAX_SKEW, -1, 0, 1, LIFETIME - 1])
def test_inside_its_window_a_request_passes(delta: int) -> None:
    """The caller's clock may be MAX_SKEW ahead; expires is the first second that is too late."""
    verify_request(**request(now=NOW + delta))


@pytest.mark.parametrize("delta", [-MAX_SKEW - 1, -86400, LIFETIME, LIFETIME + 1, 86400])
def test_n4_outside_its_window_a_request_is_stale(delta: int) -> None:
    """N4: too early, expired."""
    refused(request(now=NOW + delta), "request_stale")


@pytest.mark.parametrize("expires", [NOW, NOW - 1, NOW + MAX_LIFETIME + 1, NOW + 10**9])
def test_n4_a_window_of_another_length_is_stale(expires: int) -> None:
    """N4: no request asks for a week; none ends before it begins."""
    refused(request(headers=hand_signed(params(expires=expires)), now=NOW - 1), "request_stale")


def test_a_path_with_a_newline_cannot_pass_for_other_components() -> None:
    """A path decoded too early could hold lines of its own: refused when signed and when verified."""
    forged = '/v1/runs\n"@query": ?agreement=x&n=1'
    base = (
        '"@method": POST\n"@authority": manager.example:8443\n' + f'"@path": {forged}\n"@query": ?\n'
        f'"content-digest": {content_digest(BODY)}\n'
    )
    refused(request(headers=hand_signed(params(), base=base), path=forged, query=""))
    with pytest.raises(ValueError, match="control"):
        sign_request("PO\nST", URL, BODY, ED, NOW)


@pytest.mark.parametrize(
    ("url", "authority", "path", "query"),
    [
        ("https://a.example", "a.example", "/", ""), ("https://a.example:443/x", "a.example", "/x", ""),
        ("https://A.Example:8443/x?", "a.example:8443", "/x", ""), ("http://a.example:80/x?y=%20z", "a.example", "/x", "y=%20z"),
        ("https://[::1]:9/x", "[::1]:9", "/x", ""), ("https://[::1]:443/x", "[::1]", "/x", ""), ("https://u:p@a.example/x#f", "a.example", "/x", ""),
        ("http://a.example:443/x", "a.example:443", "/x", ""),
    ],
)  # fmt: skip
def test_what_clients_send_is_what_was_signed(url: str, authority: str, path: str, query: str) -> None:
    """RFC 9421 section 2.2.3: Host as HTTP clients write it: no default port, no user, lower case."""
    headers = sign_request("GET", url, b"", ED, NOW)
    assert verify_request("GET", authority, path, query, headers, b"", NOW).key == ED.public


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["content-digest", "signature-input", "signature"]), st.data())
def test_random_edits_of_headers_never_pass_or_crash(name: str, data: st.DataObject) -> None:
    """One character exchanged, dropped or put in: the coded refusal, or base64 that means the same bytes."""
    call = request()
    value: str = call["headers"][name]
    at = data.draw(st.integers(0, len(value) - 1))
    edit = data.draw(st.sampled_from(["", *'aA0";=:()-_+/ \n', value[at] * 2]))
    changed = value[:at] + edit + value[at + 1 :]
    if changed == value:
        return
    try:
        verify_request(**{**call, "headers": {**call["headers"], name: changed}})
    except AgreementRefusal:
        return
    assert name == "signature"
    assert base64.b64decode(changed[9:-1]) == base64.b64decode(value[9:-1])
