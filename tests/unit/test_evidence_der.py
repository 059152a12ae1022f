"""As much of DER as evidence needs: one way to write a thing (X.690 §10.1), and no other is read."""

from __future__ import annotations

import pytest

from assay_core.evidence import der


def test_values_are_read_one_after_the_other_to_the_end():
    long = b"\x04\x82\x01\x00" + bytes(256)
    assert list(der.items(b"\x04\x01a\x05\x00" + long)) == [
        der.Item(der.OCTET_STRING, b"a"),
        der.Item(0x05, b""),
        der.Item(der.OCTET_STRING, bytes(256)),
    ]
    assert list(der.items(b"")) == []
    assert der.only(b"\x30\x02\x05\x00", der.SEQUENCE) == b"\x05\x00"


@pytest.mark.parametrize(
    "data",
    [
        b"\x04",  # no length
        b"\x04\x02a",  # cut short
        b"\x04\x81\x01a",  # a short length written long
        b"\x04\x82\x00\x80" + bytes(128),  # a zero in front
        b"\x04\x80a\x00\x00",  # a length that is not said
        b"\x04\x81",  # a length of which nothing is there
        b"\x04\x84\x00\x00\x00\x01a",  # a length of four octets
        b"\x04\x84\x01\x00\x00\x00" + bytes(64),
        b"\x04\xff" + bytes(200),
        b"\x1f\x81\x01\x00",  # a tag of several octets
        b"\x3f\x01\x00",
    ],
)
def test_other_ways_to_write_are_refused(data):
    with pytest.raises(der.MalformedDer):
        list(der.items(data))


@pytest.mark.parametrize("data", [b"", b"\x30\x00\x30\x00", b"\x31\x00", b"\x30\x01"])
def test_one_value_of_its_type_is_one_value_of_its_type(data):
    with pytest.raises(der.MalformedDer):
        der.only(data, der.SEQUENCE)
