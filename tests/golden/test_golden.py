"""The golden files hold by an implementation that shares no code with the product."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from assay_core import codec, disclosure
from assay_core.leaves import Group
from tests.golden import make

HERE = Path(__file__).parent


def _read(name: str) -> dict:
    return json.loads((HERE / name).read_text())


def _b64(text: str) -> bytes:
    return base64.b64decode(text)


def _pae(kind: bytes, body: bytes) -> bytes:
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(body)).encode(), body])


def _rfc6962(entries: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 states it, by the largest power of two."""
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + _rfc6962(entries[:k]) + _rfc6962(entries[k:])).digest()


def _wire(data: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a protobuf message, by hand."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        shift = result = 0
        while True:
            byte = data[at]
            at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    while at < len(data):
        key = varint()
        value: int | bytes = varint()
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        fields.setdefault(key >> 3, []).append(value)
    return fields


@pytest.mark.parametrize("name", ["window_v1.json", "window_v1_health_only.json", "gap_v1.json"])
def test_the_signature_holds_over_the_exact_bytes(name):
    envelope = _read(name)["envelope"]
    trust = _read("trust.json")["hosts"][0]
    key = Ed25519PublicKey.from_public_bytes(_b64(trust["public_key"]))
    payload, kind = _b64(envelope["payload"]), envelope["payloadType"].encode()
    key.verify(_b64(envelope["signatures"][0]["sig"]), _pae(kind, payload))
    with pytest.raises(InvalidSignature):
        key.verify(_b64(envelope["signatures"][0]["sig"]), _pae(kind + b"x", payload))


def test_the_window_is_the_tree_of_its_leaves():
    window = _read("window_v1.json")
    header = _wire(_b64(window["envelope"]["payload"]))
    leaves = [_b64(leaf["leaf"]) for leaf in window["leaves"]]
    assert header[17] == [6]
    assert header[18] == [_rfc6962(leaves)]
    assert header[2] == [make.HOST_ID.encode()]
    assert header[3] == [2]
    assert header[5] == [7]
    assert header[8] == [1_795_000_300_000]
    assert header[11] == [1]


def test_each_salt_is_the_hmac_of_its_index():
    for leaf in _read("window_v1.json")["leaves"]:
        fields = _wire(_b64(leaf["leaf"]))
        expected = hmac.new(bytes(range(32, 64)), leaf["index"].to_bytes(4, "big"), "sha256")
        assert fields[1] == [expected.digest()[:16]]


def test_the_partial_disclosure_leads_to_the_signed_root_and_shows_no_use():
    window = _read("window_v1_health_only.json")
    (leaf,) = window["leaves"]
    first, second = (_b64(item) for item in leaf["path"])
    found = hashlib.sha256(b"\x00" + _b64(leaf["leaf"])).digest()
    found = hashlib.sha256(b"\x01" + found + first).digest()  # leaf 4 of 6: right sibling first
    found = hashlib.sha256(b"\x01" + second + found).digest()
    assert _wire(_b64(window["envelope"]["payload"]))[18] == [found]
    assert 4 in _wire(_b64(leaf["leaf"]))  # health, and not use (5)
    assert 5 not in _wire(_b64(leaf["leaf"]))


@pytest.mark.parametrize("name", sorted(make.files()))
def test_sealing_still_gives_these_bytes(name):
    assert make.files()[name] == (HERE / name).read_text()


def test_what_was_sealed_is_what_is_read():
    window = disclosure.load((HERE / "window_v1.json").read_text(), "window_v1.json")
    decoded = [codec.decode_leaf(leaf.data).content for leaf in window.leaves]
    assert [(c.subject, c.group, dict(c.values)) for c in decoded] == [
        (c.subject, c.group, dict(c.values)) for c in make.contents()
    ]
    assert {c.group for c in decoded} == set(Group)


def test_the_gap_record_is_read_back():
    gap = codec.decode_gap(make.gap().payload)
    assert (gap.first_sequence, gap.last_sequence, gap.cause.name) == (8, 11, "SPOOL_FULL")
    assert gap.previous_header_hash == make.sealed().hash
