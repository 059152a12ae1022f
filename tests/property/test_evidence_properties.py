"""No change of evidence is believed, and no bytes at all make the parser do anything but refuse."""

from __future__ import annotations

import base64
import functools

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.evidence import chain, der, forms, nvidia, spdm
from tests.fakes.nvidia import NOW_MS, Maker, request, response

NONCE = bytes(32)


@functools.cache
def good():
    maker = Maker()
    return maker, maker.device(3).answer(NONCE)


def believed(evidence, roots):
    try:
        nvidia.verify(evidence, nonce=NONCE, now_ms=NOW_MS, roots=roots)
    except nvidia.BadEvidence:
        return False
    return True


@given(st.data())
@settings(max_examples=300)
def test_no_changed_report_is_believed(data):
    maker, evidence = good()
    report = evidence.report
    at = data.draw(st.integers(0, len(report) - 1))
    cut = data.draw(st.integers(0, 8))
    changed = report[:at] + data.draw(st.binary(max_size=8)) + report[at + cut :]
    assert believed(nvidia.Evidence(changed, evidence.chain), maker.roots) == (changed == report)


@given(st.data())
def test_no_changed_certificate_is_another_device(data):
    """What is not signed may be written otherwise; what the chain says stays what it said."""
    maker, evidence = good()
    place = data.draw(st.integers(0, 4))
    der_ = evidence.chain[place].public_bytes(Encoding.DER)
    at = data.draw(st.integers(0, len(der_) - 1))
    changed = bytearray(der_)
    changed[at] = data.draw(st.integers(0, 255))
    text = base64.encodebytes(bytes(changed)).decode()
    try:
        (read,) = chain.read(
            f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode()
        )
        path = (*evidence.chain[:place], read, *evidence.chain[place + 1 :])
        device = chain.verify(path, NOW_MS, maker.roots)
    except chain.UntrustedChain:
        return
    assert device == chain.verify(evidence.chain, NOW_MS, maker.roots)


@given(st.binary(max_size=4_000))
def test_any_bytes_are_a_report_or_are_refused(data):
    for text in (data, b"\x11\xe0" + data, request(NONCE) + data):
        try:
            report = spdm.parse(text)
        except spdm.MalformedReport:
            continue
        assert report.signed + report.signature == text


@given(
    st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=80), max_size=12),
    st.integers(0, 64),
    st.binary(min_size=32, max_size=32),
)
def test_every_report_is_read_as_it_was_written(fields, measurements, nonce):
    report = spdm.parse(request(nonce) + response(fields, measurements) + bytes(96))
    assert dict(report.opaque) == fields
    assert sorted(report.measurements) == list(range(1, measurements + 1))
    assert report.nonce == nonce


@given(st.binary(max_size=300))
def test_der_ends_where_its_bytes_end(data):
    try:
        found = list(der.items(data))
    except der.MalformedDer:
        return
    assert sum(len(item.contents) + 2 for item in found) <= len(data) or not found


@given(st.binary(max_size=600), st.binary(max_size=600) | st.none())
def test_no_file_breaks_the_reader(data, pem):
    for text in (data, b"[" + data, b"-----BEGIN CERTIFICATE-----\n" + data):
        try:
            forms.read(text, pem)
        except nvidia.BadEvidence:
            continue


@given(st.binary(max_size=600))
def test_no_certificate_breaks_the_reader(data):
    try:
        chain.read(b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n")
    except chain.UntrustedChain:
        return
