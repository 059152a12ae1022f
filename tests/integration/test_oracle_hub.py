"""The hub on two real EVMs: what it takes, what it refuses and by which name, what a reader sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from eth_abi.abi import encode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay_core.money import ZERO, Usd
from assay_valuer.oracle.deploy import deploy_hub, register_feed, transact
from assay_valuer.oracle.hub import (
    Hub,
    HubError,
    HubRefused,
    pause_data,
    register_feed_data,
    rotate_signers_data,
    selector,
    submit_data,
    unpause_data,
)
from assay_valuer.oracle.report import Domain, FeedKey, Flag
from assay_valuer.oracle.rpc import ChainError, JsonRpc
from assay_valuer.oracle.signer import CURVE_ORDER, LocalSigner, Signature, sign_quorum
from assay_valuer.oracle.transaction import Unsigned, market_fees, sign
from tests.fakes import chain
from tests.fakes.oracle import (
    ADMIN,
    FEED,
    GUARDIAN,
    OUTSIDER,
    SIGNERS,
    HubUnderTest,
    changed,
    deploy,
    pause,
    posted_rounds,
)

# A 3-of-5 report of nine members in one storage word took the prototype 57,217 gas from the same
# compiler pipeline. This struct has seventeen members and NOLV takes a second word (5,000).
GAS_STEADY_3_OF_5_MAX = 70_000


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> Iterator[chain.Chains]:
    started = chain.Chains(tmp_path_factory.mktemp("chains"))
    yield started
    started.close()


@pytest.fixture(params=["devchain", "anvil"])
def rpc(request, chains, requires_tool) -> Iterator[JsonRpc]:
    if request.param == "devchain":
        running = chains.devchain()
    else:
        running = chains.anvil(requires_tool("anvil"))
    client = running.rpc()
    yield client
    client.close()


@pytest.fixture
def anvil_program(requires_tool):
    return requires_tool("anvil")


@pytest.fixture
def world(rpc: JsonRpc) -> HubUnderTest:
    return deploy(rpc)


@pytest.mark.parametrize(("signers", "threshold"), [(3, 2), (5, 3), (1, 1)])
def test_a_quorum_report_is_taken_from_anyone_and_read_back(rpc, signers, threshold):
    world = deploy(rpc, signers=signers, threshold=threshold)
    report = world.report()
    world.submit(report)
    reading = world.hub.latest(world.feed_id)
    assert reading.fresh
    assert reading.shows(report)
    assert reading.decimals == 18
    assert reading.olv_wad == 212_345_678_901 * 10**12
    assert world.hub.round_of(world.feed_id) == 1
    assert posted_rounds(world) == [1]


def test_more_signatures_than_the_threshold_are_taken(world):
    report = world.report()
    world.send(submit_data(report, world.sign(report, count=5)))
    assert world.hub.round_of(world.feed_id) == 1


def test_a_steady_report_costs_no_more_gas_than_its_width_explains(world):
    for round_ in (1, 2):
        world.submit(world.report(round_))
    report = changed(world.report(3), olv=Usd(213_000_000_001), nolv=Usd(181_000_000_001))
    gas = world.submit(report).gas_used
    assert 60_000 < gas <= GAS_STEADY_3_OF_5_MAX


uint = st.integers


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.fixed_dictionaries(
        {
            "amounts": st.lists(uint(1, 2**128 // 10**12 - 1), min_size=4, max_size=4),
            "round": uint(1, 2**32 - 1),
            "config_version": uint(1, 2**32 - 1),
            "assurance": st.sampled_from([0, 1, 2, 3, 4, 128, 130, 132]),
            "flags": uint(0, 31).map(Flag),
            "ltv_gross_bps": uint(0, 65_535),
            "ltv_net_bps": uint(0, 65_535),
            "coverage_bps": uint(1, 10_000),
            "evidence_root": st.binary(min_size=32, max_size=32),
            "methodology_hash": st.binary(min_size=32, max_size=32),
        }
    )
)
def test_our_digest_is_the_contracts(world, members):
    nolv, p10, olv, p90 = (Usd(micros) for micros in sorted(members.pop("amounts")))
    report = changed(world.report(), nolv=nolv, p10=p10, olv=olv, p90=p90, **members)
    assert world.hub.digest(report) == report.digest(world.hub.domain)


def test_our_feed_id_is_the_contracts(world):
    data = selector("feedIdOf(uint256,address,uint256)") + encode(
        ["uint256", "address", "uint256"], [FEED.chain_id, FEED.collateral_token, FEED.token_id]
    )
    assert world.rpc.call(world.hub.domain.hub, data) == FEED.feed_id


# -------------------------------------------------------------------- refused: the quorum


@contextmanager
def refused(name: str) -> Iterator[pytest.ExceptionInfo[HubRefused]]:
    """The hub must revert, with this error of its own."""
    with pytest.raises(HubRefused) as caught:
        yield caught
    assert caught.value.name == name, str(caught.value)


def test_too_few_signatures(world):
    report = world.report()
    with refused("TooFewSignatures") as error:
        world.try_signatures(report, world.sign(report, count=2))
    assert error.value.arguments == (2, 3)
    with refused("TooFewSignatures"):
        world.try_signatures(report, ())


def test_one_signer_does_not_count_twice(world):
    report = world.report()
    one, two, _three = world.sign(report)
    with refused("SignaturesNotSorted"):
        world.try_signatures(report, (one, two, two))


def test_signatures_out_of_order(world):
    report = world.report()
    one, two, three = world.sign(report)
    with refused("SignaturesNotSorted"):
        world.try_signatures(report, (two, one, three))


def test_an_outside_signer(world):
    report = world.report()
    keys = (*world.signers[:2], OUTSIDER)
    signatures = sign_quorum(keys, 3, report.digest(world.hub.domain))
    with refused("UnknownSigner") as error:
        world.try_signatures(report, signatures)
    assert str(error.value.arguments[0]).lower() == OUTSIDER.address.lower()


@pytest.mark.parametrize("member", ["chain", "contract"])
def test_signed_for_another_chain_or_contract(world, member):
    domain = world.hub.domain
    other = (
        Domain(domain.chain_id + 1, domain.hub)
        if member == "chain"
        else Domain(domain.chain_id, FEED.collateral_token)
    )
    report = world.report()
    signatures = sign_quorum(world.signers, 3, report.digest(other))
    with refused("UnknownSigner"):
        world.try_signatures(report, signatures)


@pytest.mark.parametrize(
    "member",
    [
        {"olv": Usd(212_345_678_902)},
        {"round": 2},
        {"ltv_gross_bps": 1},
        {"flags": Flag(0)},
        {"evidence_root": bytes(32)},
        {"methodology_hash": bytes(32)},
        {"p10": Usd(1)},
    ],
    ids=lambda member: next(iter(member)),
)
def test_tampered_after_signing(world, member):
    report = world.report()
    with refused("UnknownSigner"):
        world.try_signatures(changed(report, **member), world.sign(report))


def test_the_same_signature_with_the_higher_s_is_refused(world):
    """EIP-2098 has no bit for nearly every high s; the few it could carry are refused by name."""
    report = world.report()
    one, two, three = world.sign(report)
    s = CURVE_ORDER - int.from_bytes(two.data[32:64], "big")
    flipped = two.data[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - two.data[64]])
    with refused("UnknownSigner"):
        world.try_signatures(report, (one, Signature(two.signer, flipped), three))
    least = two.data[:32] + (CURVE_ORDER // 2 + 1).to_bytes(32, "big") + bytes([27])
    with refused("HighS") as error:
        world.try_signatures(report, (one, Signature(two.signer, least), three))
    assert error.value.arguments == (1,)


def test_signatures_of_a_wrong_length(world):
    report = world.report()
    data = submit_data(report, world.sign(report))
    # The length word of `signatures` comes after the 17 members and the offset.
    at = 4 + 18 * 32
    assert int.from_bytes(data[at : at + 32], "big") == 192
    shorter = data[:at] + (191).to_bytes(32, "big") + data[at + 32 :]
    with refused("SignaturesMalformed"):
        world.send(shorter)


def test_rotation_voids_old_signatures_and_old_signers(world):
    report = world.report()
    old = world.sign(report)
    newer = [account.address for account in (*world.signers[2:5], OUTSIDER, GUARDIAN)]
    world.send(rotate_signers_data(newer, 3), ADMIN)
    assert world.hub.config().version == 2
    with refused("WrongConfigVersion"):
        world.try_signatures(report, old)
    again = changed(report, config_version=2)
    with refused("UnknownSigner"):
        world.try_signatures(again, world.sign(again))
    mixed = sign_quorum(
        sorted((*world.signers[2:4], OUTSIDER), key=lambda key: int(key.address, 16)),
        3,
        again.digest(world.hub.domain),
    )
    world.send(submit_data(again, mixed))
    assert world.hub.round_of(world.feed_id) == 1


# -------------------------------------------------------------------- refused: order and time


def test_replay_older_round_and_a_round_out_of_reach(world):
    report = world.report(5)
    world.submit(report)
    with refused("RoundNotNewer"):
        world.submit(report)
    with refused("RoundNotNewer"):
        world.submit(world.report(4))
    with refused("RoundTooFarAhead"):
        world.submit(world.report(5 + 65_537))
    world.submit(world.report(5 + 65_536))


def test_an_older_observation(world):
    first = world.report(1)
    world.submit(first)
    older = changed(world.report(2), observed_at_s=first.observed_at_s - 1)
    with refused("ObservationOlder"):
        world.submit(older)
    world.submit(changed(world.report(2), observed_at_s=first.observed_at_s))


def test_expired_and_from_the_future(world):
    now_s = world.now_s()
    expired = changed(world.report(), observed_at_s=now_s - 100, valid_until_s=now_s - 1)
    with refused("Expired"):
        world.submit(expired)
    future = changed(world.report(), observed_at_s=now_s + 600, valid_until_s=now_s + 900)
    with refused("ObservedInFuture"):
        world.submit(future)


def test_a_lost_race_is_refused_before_any_signature_is_checked(world):
    report = world.report()
    world.submit(report)
    garbage = [Signature(one.signer, bytes(64) + bytes([27])) for one in world.sign(report)]
    with refused("RoundNotNewer"):
        world.try_signatures(report, garbage)


# -------------------------------------------------------------------- refused: content


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("WrongDecimals", {"decimals": 8}),
        ("WrongDecimals", {"decimals": 0}),
        ("UnknownFlags", {"flags": 32}),
        ("UnknownAssurance", {"assurance": 5}),
        ("UnknownAssurance", {"assurance": 64}),
        ("UnknownAssurance", {"assurance": 128 + 5}),
        ("CoverageAboveFull", {"coverageBps": 10_001}),
        ("AmountsOutOfOrder", {"p10": 212_345_678_902 * 10**12}),
        ("AmountsOutOfOrder", {"p90": 212_345_678_900 * 10**12}),
        ("AmountsOutOfOrder", {"nolv": 212_345_678_902 * 10**12}),
        ("ValueWithoutCoverage", {"coverageBps": 0}),
        ("CoverageWithoutValue", {"olv": 0, "nolv": 0, "p10": 0, "p90": 1}),
        ("WrongConfigVersion", {"configVersion": 2}),
        ("WrongConfigVersion", {"configVersion": 0}),
        ("RoundNotNewer", {"round": 0}),
        ("UnknownFeed", {"feedId": bytes(32)}),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value),
)
def test_content_that_a_whole_quorum_signed_is_still_refused(world, name, members):
    with refused(name):
        world.try_raw(world.report(), **members)


def test_validity_beyond_72_hours_after_the_evidence(world):
    report = world.report()
    least = report.observed_at_s + 72 * 3600
    with refused("ValidityTooLong"):
        world.try_raw(report, validUntil=least + 1)
    world.try_raw(report, validUntil=least)


def test_a_member_above_its_type_is_refused(world):
    report = world.report()
    data = bytearray(submit_data(report, world.sign(report)))
    data[4 + 11 * 32] = 1  # the highest byte of the word that holds `flags`
    with pytest.raises(HubRefused):
        world.send(bytes(data))


def test_a_refused_report_that_is_mined_anyway_changes_nothing(world):
    report = world.report()
    world.submit(report)
    before = world.hub.latest(world.feed_id)
    raw = sign(
        Unsigned(
            chain_id=world.hub.domain.chain_id,
            nonce=world.rpc.nonce(OUTSIDER.address),
            to=world.hub.domain.hub,
            data=submit_data(report, world.sign(report)),
            gas=200_000,
            fees=market_fees(world.rpc, 10**12),
        ),
        OUTSIDER,
    )
    transaction_hash = world.rpc.send_raw(raw)
    while (receipt := world.rpc.receipt(transaction_hash)) is None:
        pause()
    assert not receipt.succeeded
    assert world.hub.latest(world.feed_id) == before


# -------------------------------------------------------------------- reading


def test_a_feed_that_is_unknown_or_silent_is_not_a_value_of_zero(world):
    with refused("UnknownFeed"):
        world.hub.latest(bytes(32))
    with refused("UnknownFeed"):
        world.hub.round_of(bytes(32))
    with refused("NoReport"):
        world.hub.latest(world.feed_id)
    assert world.hub.round_of(world.feed_id) == 0
    assert not world.hub.is_registered(bytes(32))


def test_fresh_ends_with_the_ripcord_flag_and_with_nothing_counted(world):
    world.submit(changed(world.report(1), flags=Flag.SIMULATED | Flag.RIPCORD))
    assert not world.hub.latest(world.feed_id).fresh
    world.submit(world.report(2))
    assert world.hub.latest(world.feed_id).fresh
    nothing = changed(
        world.report(3), olv=ZERO, nolv=ZERO, p10=ZERO, p90=ZERO, coverage_bps=0,
        flags=Flag.SIMULATED | Flag.STALE,
    )  # fmt: skip
    world.submit(nothing)
    assert not world.hub.latest(world.feed_id).fresh
    # One silent card of eight does not make a feed unreadable.
    world.submit(changed(world.report(4), coverage_bps=8_750, flags=Flag.SIMULATED | Flag.STALE))
    assert world.hub.latest(world.feed_id).fresh


def test_pause_is_a_ripcord_for_every_reader_and_stops_reports(world):
    world.submit(world.report(1))
    world.send(pause_data(), GUARDIAN)
    reading = world.hub.latest(world.feed_id)
    assert not reading.fresh
    assert Flag.RIPCORD in reading.flags
    with refused("HubPaused"):
        world.submit(world.report(2))
    with refused("NotAdmin"):
        world.send(unpause_data(), GUARDIAN)
    world.send(unpause_data(), ADMIN)
    assert world.hub.latest(world.feed_id).fresh
    world.submit(world.report(2))


# -------------------------------------------------------------------- roles


def test_only_the_admin_administers(world):
    calls = (
        register_feed_data(FeedKey(1, FEED.collateral_token, 8), 18),
        rotate_signers_data([OUTSIDER.address], 1),
        unpause_data(),
        selector("setGuardian(address)") + encode(["address"], [OUTSIDER.address]),
        selector("offerAdmin(address)") + encode(["address"], [OUTSIDER.address]),
    )
    for key in (GUARDIAN, OUTSIDER, SIGNERS[0]):
        for data in calls:
            with refused("NotAdmin"):
                world.send(data, key)
    for key in (OUTSIDER, SIGNERS[0]):
        with refused("NotGuardian"):
            world.send(pause_data(), key)


def test_an_admin_is_changed_in_two_halves(world):
    offer = selector("offerAdmin(address)") + encode(["address"], [OUTSIDER.address])
    accept = selector("acceptAdmin()")
    with refused("NotAdmin"):
        world.send(accept, OUTSIDER)
    world.send(offer, ADMIN)
    with refused("NotAdmin"):
        world.send(accept, GUARDIAN)
    world.send(accept, OUTSIDER)
    with refused("NotAdmin"):
        world.send(pause_data() and unpause_data(), ADMIN)
    world.send(unpause_data(), OUTSIDER)
    with refused("NotAdmin"):
        world.send(accept, OUTSIDER)


def test_feeds_are_registered_once_with_decimals_in_range(world):
    again = register_feed_data(FEED, 18)
    with refused("FeedExists"):
        world.send(again, ADMIN)
    assert register_feed(world.hub, ADMIN, FEED, pause=pause) == world.feed_id
    for decimals in (0, 19):
        other = register_feed_data(FeedKey(1, FEED.collateral_token, 9), decimals)
        with refused("WrongDecimals"):
            world.send(other, ADMIN)


@pytest.mark.parametrize(("count", "threshold"), [(5, 2), (5, 0), (5, 6), (0, 0), (2, 1), (4, 2)])
def test_a_quorum_is_a_majority_of_its_signers(world, count, threshold):
    signers = [key.address for key in SIGNERS[:count]]
    with refused("BadThreshold"):
        world.send(rotate_signers_data(signers, threshold), ADMIN)


def test_no_signer_has_two_seats_and_none_is_nobody(world):
    twice = [SIGNERS[0].address, SIGNERS[0].address, SIGNERS[1].address]
    with refused("SignersNotSorted"):
        world.send(rotate_signers_data(twice, 2), ADMIN)
    nobody = ["0x" + "00" * 20, SIGNERS[0].address, SIGNERS[1].address]
    with refused("SignersNotSorted"):
        world.send(rotate_signers_data(nobody, 2), ADMIN)


def test_a_hub_without_admin_or_guardian_is_not_deployed(rpc):
    zero = "0x" + "00" * 20
    for admin, guardian in ((zero, GUARDIAN.address), (ADMIN.address, zero)):
        with refused("ZeroAddress"):
            deploy_hub(
                rpc,
                ADMIN,
                admin=admin,
                guardian=guardian,
                signers=[SIGNERS[0].address],
                threshold=1,
                pause=pause,
            )


def test_another_contract_or_chain_is_not_taken_for_the_hub(world):
    domain = world.hub.domain
    with pytest.raises(HubError, match="is not the valuation hub"):
        Hub(world.rpc, Domain(domain.chain_id, ADMIN.address)).check()
    with pytest.raises(HubError, match="correct the endpoint"):
        Hub(world.rpc, Domain(1, domain.hub)).check()
    # A hub that was deployed with other immutables is still this hub.
    deploy(world.rpc).hub.check()


# -------------------------------------------------------------------- chains of their own


def test_a_reading_expires(tmp_path: Path):
    with chain.devchain(tmp_path) as running:
        world = deploy(running.rpc())
        report = world.report()
        world.submit(report)
        world.pass_time(report.valid_until_s - world.now_s())
        assert world.hub.latest(world.feed_id).fresh
        world.pass_time(1)
        reading = world.hub.latest(world.feed_id)
        assert not reading.fresh
        assert reading.shows(report)


def test_nothing_simulated_is_taken_off_a_development_chain(tmp_path: Path, anvil_program: Path):
    with chain.anvil(anvil_program, tmp_path, "--chain-id", "42161") as running:
        world = deploy(running.rpc())
        assert world.hub.domain.chain_id == 42161
        report = world.report()
        with refused("SimulatedReport") as error:
            world.submit(report)
        assert error.value.arguments == (42161,)
        world.submit(changed(report, flags=Flag(0)))
        assert world.hub.latest(world.feed_id).fresh


def test_deploying_needs_gas(rpc):
    poor = LocalSigner(b"\x07" * 32)
    with pytest.raises((ChainError, HubRefused)):
        transact(rpc, poor, to=ADMIN.address, data=b"", pause=pause)
