"""Reports: what we refuse to sign, the bytes that are signed, what the outbox keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from assay_core.money import ZERO, Usd
from assay_valuer.oracle.hub import artefact, explain, selector, submit_data
from assay_valuer.oracle.report import FIELDS, Domain, FeedKey, Flag, Report, ReportError
from assay_valuer.oracle.signer import LocalSigner, sign_quorum

HUB = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
REPORT = Report(
    feed_id=bytes(range(32)),
    round=7,
    olv=Usd(212_345_678_901),
    nolv=Usd(180_493_827_065),
    p10=Usd(190_000_000_000),
    p90=Usd(240_000_000_000),
    ltv_gross_bps=7_123,
    ltv_net_bps=8_381,
    coverage_bps=10_000,
    assurance=128,
    flags=Flag.SIMULATED | Flag.STALE,
    observed_at_s=1_795_000_000,
    valid_until_s=1_795_100_000,
    config_version=1,
    evidence_root=bytes(32),
    methodology_hash=bytes([255]) * 32,
)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"p10": Usd(212_345_678_902)}, "p10"),
        ({"p90": Usd(212_345_678_900)}, "p90"),
        ({"nolv": Usd(212_345_678_902)}, "NOLV"),
        ({"nolv": Usd(-1)}, "nolv"),
        ({"p90": Usd(2**128 // 10**12 + 1)}, "p90"),
        ({"coverage_bps": 0}, "nothing is counted"),
        ({"coverage_bps": 10_001}, "coverage_bps"),
        ({"olv": ZERO, "nolv": ZERO, "p10": ZERO}, "value of zero"),
        ({"assurance": 5}, "assurance"),
        ({"assurance": 64}, "assurance"),
        ({"flags": Flag(32)}, "flags"),
        ({"ltv_gross_bps": 65_536}, "ltv_gross_bps"),
        ({"round": 0}, "round"),
        ({"round": 2**32}, "round"),
        ({"config_version": 0}, "config version"),
        ({"valid_until_s": 1_795_000_000}, "valid"),
        ({"valid_until_s": 1_795_000_000 + 72 * 3600 + 1}, "valid"),
        ({"feed_id": bytes(31)}, "feed id"),
        ({"evidence_root": bytes(33)}, "evidence root"),
    ],
    ids=str,
)
def test_what_the_hub_would_refuse_is_never_made(members, says):
    with pytest.raises(ReportError, match=says):
        replace(REPORT, **members)


def test_nothing_counted_is_zero_everywhere_and_allowed():
    nothing = replace(REPORT, olv=ZERO, nolv=ZERO, p10=ZERO, p90=ZERO, coverage_bps=0)
    assert nothing.values()[3:7] == (0, 0, 0, 0)


def test_feed_id_is_the_hash_of_the_abi_words():
    feed = FeedKey(42161, "0x1c2ed170de32846316784c4fd58a5e3c7563e12f", 7)
    words = (
        (42161).to_bytes(32, "big")
        + bytes(12)
        + bytes.fromhex("1c2ed170de32846316784c4fd58a5e3c7563e12f")
        + (7).to_bytes(32, "big")
    )
    assert feed.feed_id == keccak(words)


def test_the_digest_is_eip712_word_by_word():
    """Recomputed from the standard alone: a change of the struct must be a new golden value."""
    type_hash = keccak(text="Report(" + ",".join(f"{t} {n}" for n, t in FIELDS) + ")")
    members = b"".join(
        value if isinstance(value, bytes) else value.to_bytes(32, "big")
        for value in REPORT.values()
    )
    domain = (
        keccak(
            text="EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
        )
        + keccak(text="Assay CALIBER Valuation Hub")
        + keccak(text="1")
        + (1337).to_bytes(32, "big")
        + bytes(12)
        + bytes.fromhex(HUB[2:])
    )
    expected = keccak(b"\x19\x01" + keccak(domain) + keccak(type_hash + members))
    assert REPORT.digest(Domain(1337, HUB)) == expected
    assert expected.hex() == "8dc78a4f62a24e5257a9fa30a43188075aac26ddf7f54ada2287d8a8719c6bd8"


def test_the_struct_is_the_contracts():
    (submit,) = (e for e in artefact().abi if e.type == "function" and e.name == "submit")
    assert [one.type for one in submit.inputs] == ["tuple", "bytes"]


@given(
    micros=st.lists(st.integers(1, 10**20), min_size=4, max_size=4),
    round_=st.integers(1, 2**32 - 1),
    flags=st.integers(0, 31),
    root=st.binary(min_size=32, max_size=32),
)
def test_the_outbox_keeps_a_report_exactly(micros, round_, flags, root):
    nolv, p10, olv, p90 = (Usd(amount) for amount in sorted(micros))
    report = replace(
        REPORT, nolv=nolv, p10=p10, olv=olv, p90=p90,
        round=round_, flags=Flag(flags), evidence_root=root,
    )  # fmt: skip
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("text", ["", "{}", "[]", REPORT.to_json().replace("olv_micros", "olv")])
def test_a_damaged_outbox_row_is_an_error_and_not_a_report(text):
    with pytest.raises(ReportError, match="does not read back"):
        Report.from_json(text)


def test_submit_carries_64_bytes_a_signature_in_order():
    keys = [LocalSigner(bytes([i]) * 32) for i in (1, 2, 3)]
    signatures = sign_quorum(keys, 3, REPORT.digest(Domain(1337, HUB)))
    data = submit_data(REPORT, signatures)
    assert len(data) == 4 + 32 * (17 + 2) + 3 * 64
    assert [one.signer for one in signatures] == sorted(
        (key.address for key in keys), key=lambda address: int(address, 16)
    )


def test_reverts_are_named_and_what_is_not_ours_is_shown_as_it_is():
    word = (5).to_bytes(32, "big")
    assert str(explain(selector("RoundNotNewer(uint32,uint32)") + word + word)).endswith(
        "RoundNotNewer(5, 5)"
    )
    assert explain(selector("HubPaused()")).name == "HubPaused"
    assert explain(selector("Panic(uint256)") + (17).to_bytes(32, "big")).arguments == (17,)
    for data in (b"", b"\x01\x02\x03\x04", selector("RoundNotNewer(uint32,uint32)") + word):
        error = explain(data)
        assert (error.name, error.arguments) == ("Reverted", (data,))
