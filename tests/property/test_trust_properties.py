"""What holds of trust whatever hosts show, prove and claim, in whatever order it comes."""

from __future__ import annotations

from dataclasses import replace as put

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from assay_core.asset_events import AssetEvent, Kind
from assay_core.instants import DAY_MS, HOUR_MS
from assay_core.leaves import HOST as HOST_SUBJECT
from assay_core.leaves import Content, Group
from assay_valuer import claims
from assay_valuer.assets import Registry
from assay_valuer.book import appraise
from assay_valuer.decisions import take_decision
from assay_valuer.events import DecidedEvent, State
from assay_valuer.fleet import Fleet
from assay_valuer.policy import Evidence, ValuerPolicy
from assay_valuer.sights import Identified, WindowSights
from assay_valuer.standing.assurance import CUSTODY, Assurance, Known, assure
from assay_valuer.standing.holding import Shown
from assay_valuer.standing.trust import (
    CLAIMS_MAX,
    KEPT_MAX,
    AssetTrust,
    Custody,
    Freeze,
    FreezeCode,
    HostProofs,
    Reservation,
    Verdict,
)
from assay_valuer.standing.types import Host
from tests.fakes.collateral import NOW, PART, asset, host, loan_file, sight, snapshot
from tests.fakes.proofs import HOST, LISTED, answers, device, tpm

# ---------------------------------------------------------------------------- what is known

AGES = st.sampled_from([0, 1, 2, 3, 5, 6, 7, 12, 17, 18, 19, 100]).map(lambda h: h * HOUR_MS)
POLICIES = st.sampled_from(
    [
        ValuerPolicy(),
        ValuerPolicy(evidence=Evidence(ocsp="waived", simulated_tpm_roots=("ab" * 32,))),
        ValuerPolicy(evidence=Evidence(full_intervals=2, decayed_intervals=9)),
    ]
)


@st.composite
def host_proofs(draw):
    root = draw(st.sampled_from([LISTED, LISTED, "ab" * 32, None]))
    one = tpm(draw(AGES), root, virtual=draw(st.booleans()) if root != LISTED else False)
    return one if draw(st.booleans()) else replace(one, tpm=None)


@st.composite
def knowns(draw):
    proof = draw(st.none() | st.builds(device, AGES, whole=st.booleans()))
    until_ms = NOW + draw(st.sampled_from([-1, 0, DAY_MS]))
    inspected = Custody(event_id=1, custodian="kurt", until_ms=until_ms, document_sha256="d")
    custody = (inspected,) if draw(st.booleans()) else ()
    proofs = draw(host_proofs() | st.just(HostProofs()))
    ocsp = draw(st.sampled_from([answers(), answers("ik"), {}, answers(good=False)]))
    seen_ms = draw(st.sampled_from([NOW, NOW - 6 * DAY_MS, NOW - 7 * DAY_MS, None]))
    return Known(AssetTrust(proof=proof, custody=custody), proofs, HOST, seen_ms, ocsp)


def no_better(worse: Assurance, better: Assurance) -> bool:
    level = (worse.code & ~CUSTODY) <= (better.code & ~CUSTODY)
    return (
        level
        and worse.cap_bps <= better.cap_bps
        and bool(worse.code & CUSTODY <= better.code & CUSTODY)
    )


@given(knowns(), POLICIES, AGES)
@settings(max_examples=150)
def test_an_older_proof_never_raises_anything(known, policy, age_ms):
    now = assure(known, policy, NOW)
    if known.host.tpm is not None:
        quote = replace(known.host.tpm, at_ms=known.host.tpm.at_ms - age_ms)
        older = put(known, host=replace(known.host, tpm=quote))
        assert no_better(assure(older, policy, NOW), now)
    if known.asset.proof is not None:
        proof = replace(known.asset.proof, at_ms=known.asset.proof.at_ms - age_ms)
        older = put(known, asset=replace(known.asset, proof=proof))
        assert no_better(assure(older, policy, NOW), now)
    assert no_better(assure(known, policy, NOW + age_ms), now)  # nor does waiting


@given(knowns(), POLICIES)
@settings(max_examples=150)
def test_a_proof_that_is_missing_never_raises_anything(known, policy):
    now = assure(known, policy, NOW)
    without = (
        put(known, host=replace(known.host, tpm=None)),
        put(known, host=replace(known.host, root_sha256=None)),
        put(known, host=HostProofs()),
        put(known, asset=replace(known.asset, proof=None)),
        put(known, asset=replace(known.asset, custody=())),
        put(known, revocations={}),
        put(known, seen_ms=None),
    )
    for one in without:
        assert no_better(assure(one, policy, NOW), now)
    proof = known.asset.proof
    if proof is not None:
        part = put(known, asset=replace(known.asset, proof=replace(proof, whole=False)))
        assert no_better(assure(part, policy, NOW), now)


@given(knowns(), POLICIES, st.sampled_from(FreezeCode), st.booleans())
@settings(max_examples=80)
def test_a_freeze_never_raises_anything(known, policy, code, of_host):
    one = Freeze(code=code, detail="", since_ms=NOW, position=1)
    if of_host:
        frozen = put(known, host=replace(known.host, freezes=(one,)))
    else:
        frozen = put(known, asset=replace(known.asset, freezes=(one,)))
    assert assure(frozen, policy, NOW).cap_bps == 0
    assert no_better(assure(frozen, policy, NOW), assure(known, policy, NOW))


@given(st.lists(knowns(), min_size=1, max_size=4), POLICIES, st.randoms())
@settings(max_examples=40)
def test_the_order_of_hosts_gpus_and_answers_changes_nothing_and_trust_no_market_value(
    known, policy, random
):
    numbers = range(1, len(known) + 1)
    gpus = [
        put(asset(n, host_key=n), trust=one.asset) for n, one in zip(numbers, known, strict=True)
    ]
    loan = loan_file([one.serial or "" for one in gpus])
    plain = put(
        snapshot([put(one, trust=AssetTrust()) for one in gpus], loan=loan),
        hosts={n: host(n) for n in numbers},
    )
    told = put(
        plain,
        assets={one.id: one for one in gpus},
        proofs={n: one.host for n, one in zip(numbers, known, strict=True)},
        revocations=known[0].revocations,
    )
    book = appraise(told, policy, NOW)
    for part in ("hosts", "assets", "proofs", "revocations"):
        items = list(getattr(told, part).items())
        random.shuffle(items)
        told = put(told, **{part: dict(items)})
    assert appraise(told, policy, NOW).positions == book.positions
    assert appraise(told, policy, NOW).lines == book.lines
    bare = appraise(plain, policy, NOW)
    for number in numbers:
        assert book.lines[number].valuation == bare.lines[number].valuation
    assert book.positions["loan-1"].values == bare.positions["loan-1"].values


# ---------------------------------------------------------------------------- whatever hosts show

STRONG, EQUAL, BARE, OTHER = 1, 2, 3, 4
KEYS = st.sampled_from([STRONG, EQUAL, BARE, OTHER])
SERIALS = st.sampled_from(["S1", "S2", "S3"])
WINDOW_MS = 1_000
POLICY = ValuerPolicy()
PLACES = {
    key: Host(key, f"host-{key}", f"site-{key}", NOW, False) for key in (STRONG, EQUAL, BARE, OTHER)
}
# STRONG and EQUAL have TPMs that were quoted just now, whenever that is.
PROOFS = {STRONG: tpm(-DAY_MS * 3_650), EQUAL: tpm(-DAY_MS * 3_650)}
RESERVED = {1: Reservation(host_id="host-1"), 2: Reservation(site="site-3")}


class Hosts(RuleBasedStateMachine):
    """Four hosts and three serials: S1 is pledged to host 1, S2 to host 3's site, S3 to nobody."""

    @initialize()
    def begin(self) -> None:
        expected = [put(asset(number, seen=False), serial=f"S{number}") for number in (1, 2)]
        registry = Registry(dict(PLACES), dict(PROOFS), RESERVED)
        self.fleet = Fleet(expected, {}, POLICY, registry)
        self.now_ms = NOW
        self.position = 0
        self.shown: list[tuple[int, str, int, int]] = []
        self.answered: set[tuple[int, str]] = set()
        self.signed: dict[str, tuple[int, list[int]]] = {}
        self.moved: set[str] = set()
        self.frozen: set[tuple[str, str]] = set()

    # ------------------------------------------------------------------ what happens

    @rule(
        host_key=KEYS,
        serials=st.sets(SERIALS, min_size=1),
        identity=st.booleans(),
        back=st.sampled_from([0, 0, 0, 1, 3, 10]),
    )
    def shows(self, host_key: int, serials: set[str], identity: bool, back: int) -> None:
        """A window, or one of before that comes late."""
        if not back:
            self.now_ms += WINDOW_MS
        at_ms = self.now_ms - back * WINDOW_MS
        self.position += 1
        gpus = {}
        for serial in sorted(serials):
            uuid = f"{host_key}-{serial}".encode().ljust(16, b".")
            told = Identified("NVIDIA H200", serial, PART, 7) if identity else None
            gpus[uuid] = told, sight(at_ms, self.position, subject=uuid)
            self.shown.append((host_key, serial, at_ms - WINDOW_MS, at_ms))
        leaf = Content(
            HOST_SUBJECT, Group.HOST, {"driver_state": 1, "missing_gpus": (), "events": ()}
        )
        window = WindowSights(
            host_key=host_key,
            position=self.position,
            hash=self.position.to_bytes(32),
            simulated=False,
            gpus=gpus,
            unnamed=sight(at_ms, self.position, seen=False),
            host=leaf,
        )
        self.fleet.take(window, PLACES[host_key])

    @rule(host_key=KEYS, serial=SERIALS, other=KEYS)
    def show_it_in_turns(self, host_key: int, serial: str, other: int) -> None:
        """Two hosts, or one twice."""
        for key in (host_key, other):
            self.shows(key, {serial}, True, 0)

    def by_serial(self, serial: str):
        number = self.fleet.known.by_serial((serial, PART))
        return None if number is None else self.fleet.assets[number]

    @rule(host_key=KEYS, serial=SERIALS)
    def answers(self, host_key: int, serial: str) -> None:
        """The device of this GPU signs for a host, which has it or is relayed to."""
        one = self.by_serial(serial)
        if one is None or one.host_key is None:
            return
        self.now_ms += WINDOW_MS
        self.position += 1
        told = Shown(
            host_key, f"host-{host_key}", self.now_ms - WINDOW_MS, self.now_ms, self.position
        )
        self.shown.append((host_key, serial, told.begin_ms, told.end_ms))
        self.answered.add((host_key, serial))
        if one.host_key == host_key:
            proof = device(NOW - told.begin_ms, host_key=host_key)
            self.fleet.known.put(put(one, trust=replace(one.trust, proof=proof)))
            claims.confirm(self.fleet.known, one.id, told)
        else:
            claims.claim(self.fleet.known, one.id, told, proved_ms=told.begin_ms)
        holder, before = self.signed.get(serial, (one.host_key, []))
        if holder != one.host_key:
            before = []  # it went over
        self.signed[serial] = one.host_key, [*before, host_key]
        if self.signs_in_turns(serial, host_key, one.host_key):
            codes = {freeze.code for freeze in self.fleet.assets[one.id].trust.freezes}
            assert FreezeCode.CLONE in codes

    def signs_in_turns(self, serial: str, claimant: int, holder: int) -> bool:
        """Whether its device signed for the claimant, then the holder, and the claimant again."""
        left = iter(self.signed[serial][1])
        return claimant != holder and all(key in left for key in (claimant, holder, claimant))

    @rule(host_key=KEYS, serial=SERIALS)
    def signs_for_two_in_turns(self, host_key: int, serial: str) -> None:
        one = self.by_serial(serial)
        if one is not None and one.host_key is not None:
            for key in (one.host_key, host_key) * 2:
                self.answers(key, serial)

    @rule(serial=SERIALS, to=KEYS, at_once=st.booleans())
    def move_is_agreed(self, serial: str, to: int, at_once: bool) -> None:
        one = self.by_serial(serial)
        if one is None:
            return
        fields = {
            "begin_ms": self.now_ms,
            "until_ms": self.now_ms + 20 * WINDOW_MS,
            "to_host": f"host-{to}",
        }
        self.decide(Kind.MOVE, one.id, **fields)
        self.moved.add(serial)
        if at_once:
            self.shows(to, {serial}, True, 0)

    @rule(serial=SERIALS, holder=KEYS)
    def gpu_is_enrolled_again(self, serial: str, holder: int) -> None:
        one = self.by_serial(serial)
        if one is None or one.host_key is None:
            return
        self.decide(Kind.RE_ENROL, one.id, holder=f"host-{holder}")
        self.frozen -= {held for held in self.frozen if held[0] == serial}
        self.moved.add(serial)

    @rule(host_key=KEYS)
    def host_is_enrolled_again(self, host_key: int) -> None:
        quoted = self.fleet.known.proofs_of(host_key).tpm
        self.decide(Kind.RE_ENROL, host=f"host-{host_key}")
        self.frozen -= {held for held in self.frozen if held[0] == f"host-{host_key}"}
        assert self.fleet.known.proofs_of(host_key).freezes == ()
        after = self.fleet.known.proofs_of(host_key)
        self.fleet.known.put_proofs(host_key, replace(after, tpm=quoted))  # it is quoted again

    def decide(self, kind: Kind, *ids: int, **fields: object) -> None:
        event = AssetEvent(kind=kind, nonce="n", why="w", **fields)  # type: ignore[arg-type]  # test data
        self.position += 1
        self.signed = {}  # whoever has what may be another from now on
        keys = {one.host_id: key for key, one in PLACES.items()}
        decided = DecidedEvent(self.position, State.ACCEPTED, event, self.now_ms, ids, {}, keys, ())
        take_decision(self.fleet.known, decided)

    @rule()
    def starts_anew(self) -> None:
        """All of it as it is stored, and read back."""
        stored = []
        for one in self.fleet.assets.values():
            text = msgspec.json.encode(one.trust)
            assert len(text) < 20_000
            back = msgspec.json.decode(text, type=AssetTrust)
            assert back == one.trust
            stored.append(put(one, trust=back))
        proofs = {}
        for key, one in self.fleet.known.proofs.items():
            text = msgspec.json.encode(one)
            assert len(text) < 20_000
            proofs[key] = msgspec.json.decode(text, type=HostProofs)
            assert proofs[key] == one
        self.fleet = Fleet(
            stored, self.fleet.hashes, POLICY, Registry(dict(PLACES), proofs, RESERVED)
        )

    # ------------------------------------------------------------------ what holds

    @invariant()
    def a_gpu_has_one_holder(self) -> None:
        known = self.fleet.known
        for one in known.all.values():
            holders = [key for key in PLACES if one.id in known.of_host(key)]
            assert holders == ([] if one.host_key is None else [one.host_key])
            assert one.host_key not in {claim.host_key for claim in one.trust.claims}

    @invariant()
    def nothing_unfreezes_but_a_decision_of_two(self) -> None:
        now = self.all_frozen()
        assert self.frozen <= now
        self.frozen = now

    def all_frozen(self) -> set[tuple[str, str]]:
        known = self.fleet.known
        gpus = {
            (one.serial or "", freeze.code.value)
            for one in known.all.values()
            for freeze in one.trust.freezes
        }
        return gpus | {
            (f"host-{key}", freeze.code.value)
            for key, proofs in known.proofs.items()
            for freeze in proofs.freezes
        }

    @invariant()
    def no_freeze_without_both_at_once(self) -> None:
        for what, code in self.all_frozen():
            if code == FreezeCode.FALSE_CLAIM.value and what.startswith("host-"):
                assert any(self.interleaved(int(what[-1]), s) for s in ("S1", "S2", "S3")), what
            if code == FreezeCode.CLONE.value:
                assert any(self.interleaved(key, what) for key in PLACES), what
                # The device itself signed for two hosts.
                assert len({key for key, serial in self.answered if serial == what}) >= 2

    def interleaved(self, host_key: int, serial: str) -> bool:
        """Whether another host showed it between two windows of this one."""
        mine = [(b, e) for key, s, b, e in self.shown if (key, s) == (host_key, serial)]
        theirs = [b for key, s, b, _ in self.shown if key != host_key and s == serial]
        first, last = min((e for _, e in mine), default=0), max((e for _, e in mine), default=0)
        return any(first <= begin < last for begin in theirs)

    @invariant()
    def a_bare_word_freezes_nobody_else(self) -> None:
        """Whoever is frozen for a claim was weaker: of equals, only against whom a pledge names."""
        for key in (STRONG, EQUAL):
            frozen = (f"host-{key}", FreezeCode.FALSE_CLAIM.value) in self.frozen
            if frozen and not self.answered:
                others = {s for k, s, _, _ in self.shown if k == key}
                # S2's pledge names host 3's site: a bare host, which is weaker than any of these.
                assert key == EQUAL
                assert "S1" in others

    @invariant()
    def words_alone_never_stop_a_gpu_from_counting(self) -> None:
        for one in self.fleet.assets.values():
            if one.serial not in self.moved and not any(s == one.serial for _, s in self.answered):
                assert one.trust.freezes == ()

    @invariant()
    def what_is_reserved_is_its_own_hosts(self) -> None:
        for serial, key in (("S1", STRONG), ("S2", BARE)):
            one = self.by_serial(serial)
            if serial not in self.moved and one is not None:
                assert one.host_key in (None, key)

    @invariant()
    def a_dispute_freezes_nothing(self) -> None:
        for one in self.fleet.assets.values():
            verdicts = {claim.verdict for claim in one.trust.claims}
            clones = [f for f in one.trust.freezes if f.code is FreezeCode.CLONE]
            if Verdict.CLONE in verdicts:
                assert clones
            assert len(one.trust.claims) <= CLAIMS_MAX
            assert len(one.trust.transitions) <= KEPT_MAX
            assert len({f.code for f in one.trust.freezes}) == len(one.trust.freezes)


TestHosts = Hosts.TestCase
TestHosts.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
