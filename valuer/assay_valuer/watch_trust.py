"""What Prometheus sees of trust: assurance, proofs and their ages, freezes, claims, transitions.

As in watch: what is unknown has no sample. A proof that there is not has no age, and what holds of
few GPUs (a freeze, a claim, a transition) has a series while it holds and none otherwise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from assay_core.units import BPS
from assay_valuer.book import Book, Line
from assay_valuer.policy import ms
from assay_valuer.standing.assurance import (
    CUSTODY,
    NAMES,
    OcspState,
    TpmState,
    ocsp_state,
    tpm_state,
    worth_bps,
)
from assay_valuer.standing.trust import NO_PROOFS, DeviceProof, Transition, Verdict
from assay_valuer.standing.types import Host
from assay_valuer.watch_labels import GPU, HOST, family, gpu_labels, host_labels

LEVEL_HELP: Final = "0 to 4, for L0, L1, L2, L2+ and L3; custody is told apart."


def level_of(code: int) -> int:
    """The level in a code of assurance."""
    return code & ~CUSTODY


def custody_of(code: int) -> int:
    """1 where a code of assurance says custody."""
    return int(bool(code & CUSTODY))


# ------------------------------------------------------------------------------------------ GPUs


def every_gpu(book: Book) -> Iterator[Metric]:
    """At most four samples for each GPU."""
    level = family("gpu_assurance_level", LEVEL_HELP, *GPU)
    custody = family("gpu_custody", "Whether a third party holds the GPU, by inspection.", *GPU)
    cap = family(
        "gpu_lendable_cap_ratio", "Most that is lent on a GPU's net value, by its assurance.", *GPU
    )
    proved = family(
        "gpu_device_proof_timestamp_seconds",
        "When a GPU's device was asked for its newest report that held, on the host it is with.",
        *GPU,
    )
    for line in book.lines.values():
        labels = gpu_labels(line, book)
        level.add_metric(labels, level_of(line.standing.assurance))
        custody.add_metric(labels, custody_of(line.standing.assurance))
        cap.add_metric(labels, line.standing.cap_bps / BPS)
        proof = _proof_here(line)
        if proof is not None:
            proved.add_metric(labels, proof.at_ms / 1000)
    yield from (level, custody, cap, proved)


def _proof_here(line: Line) -> DeviceProof | None:
    """Its device's proof, where it is of the host that it is with."""
    proof = line.asset.trust.proof
    return proof if proof is not None and proof.host_key == line.asset.host_key else None


def few_gpus(book: Book) -> list[GaugeMetricFamily]:
    """What holds of few GPUs: only those have samples."""
    frozen = family("gpu_frozen", "A GPU is frozen for this itself; 1 while it is.", *GPU, "code")
    claims = family(
        "gpu_claims", "Other hosts that show a GPU too, by what came of it.", *GPU, "verdict"
    )
    ends = family(
        "gpu_transition_end_timestamp_seconds",
        "When what both parties agreed to ends, and what is awaited until then.",
        *(*GPU, "kind", "awaits"),
    )
    for line in book.lines.values():
        trust, transition = line.asset.trust, line.standing.transition
        if not (trust.freezes or trust.claims or transition):
            continue
        labels = gpu_labels(line, book)
        for code in sorted({one.code.value for one in trust.freezes}):
            frozen.add_metric([*labels, code], 1)
        for verdict, count in sorted(_verdicts(line, book).items()):
            claims.add_metric([*labels, verdict.value], count)
        if transition is not None:
            told = [*labels, transition.kind, _awaited(line, transition, book)]
            ends.add_metric(told, transition.until_ms / 1000)
    return [frozen, claims, ends]


def _verdicts(line: Line, book: Book) -> Counter[Verdict]:
    trust, keep_ms = line.asset.trust, ms(book.policy.findings.keep_s)
    return Counter(one.verdict for one in trust.claims if not trust.past(one, book.at_ms, keep_ms))


def _awaited(line: Line, transition: Transition, book: Book) -> str:
    """A successor that was not seen yet, its arrival elsewhere, its return, or nothing."""
    asset = line.asset
    if transition.other_asset is not None:
        after = book.lines.get(transition.other_asset)
        seen = after is not None and after.asset.track.seen_ms is not None
        return "nothing" if seen else "successor"
    if transition.to_host or transition.to_site:
        host = None if asset.host_key is None else book.hosts.get(asset.host_key)
        there = host is not None and transition.leads_to(host.host_id, host.site)
        return "nothing" if there else "arrival"
    seen_ms = asset.track.seen_ms
    quiet_ms = ms(book.policy.silence.quiet_after_s)
    return "nothing" if seen_ms is not None and book.at_ms - seen_ms <= quiet_ms else "return"


# ----------------------------------------------------------------------------------------- hosts


def hosts(book: Book) -> Iterator[Metric]:
    """At most sixteen samples for each host, but for its own freezes."""
    families = (
        family("host_assurance_gpus", "GPUs of a host by level of assurance.", *HOST, "level"),
        family("host_tpm", "What a host's TPM is to us; 1 for what holds.", *HOST, "state"),
        family(
            "host_tpm_quote_timestamp_seconds",
            "When a host's TPM was asked for its newest quote that held.",
            *HOST,
        ),
        family("host_frozen", "A host is frozen for this; 1 while it is.", *HOST, "code"),
        family("host_frozen_gpus", "GPUs of a host that are frozen themselves.", *HOST),
        family(
            "host_claims",
            "Claims of other hosts to GPUs of this one, by what came of them.",
            *(*HOST, "verdict"),
        ),
    )
    lines: dict[int, list[Line]] = defaultdict(list)
    for line in book.lines.values():
        if line.asset.host_key is not None:
            lines[line.asset.host_key].append(line)
    for host in book.hosts.values():
        _host(book, host, lines[host.key], families)
    yield from families


def _host(
    book: Book, host: Host, lines: Sequence[Line], families: tuple[GaugeMetricFamily, ...]
) -> None:
    by_level, tpm, quoted, frozen, frozen_gpus, claims = families
    labels = host_labels(host, lines)
    proofs = book.proofs.get(host.key, NO_PROOFS)
    levels = Counter(level_of(line.standing.assurance) for line in lines)
    for level, name in enumerate(NAMES):
        by_level.add_metric([*labels, name], levels[level])
    state = tpm_state(proofs, book.policy)
    tpm.add_metric([*labels, state.value], 1)
    if state is not TpmState.NONE and proofs.tpm is not None:
        quoted.add_metric(labels, proofs.tpm.at_ms / 1000)
    for code in sorted({one.code.value for one in proofs.freezes}):
        frozen.add_metric([*labels, code], 1)
    frozen_gpus.add_metric(labels, sum(bool(line.asset.trust.freezes) for line in lines))
    verdicts = sum((_verdicts(line, book) for line in lines), Counter[Verdict]())
    for verdict in Verdict:
        claims.add_metric([*labels, verdict.value], verdicts[verdict])


# --------------------------------------------------------------------------- what proofs rest on


def evidence(book: Book) -> Iterator[Metric]:
    """How often proofs are asked for, and what is known of the certificates they rest on."""
    policy = book.policy
    interval = family(
        "proof_interval_seconds", "Within how long hardware is asked again, by policy.", "proof"
    )
    interval.add_metric(["tpm"], policy.evidence.tpm_interval_s)
    interval.add_metric(["device"], policy.evidence.device_interval_s)
    yield interval
    if policy.evidence.ocsp == "waived":
        return
    names = _relied_on(book)
    answers = [book.revocations.get(name) for name in names]
    states = Counter(ocsp_state(one, policy, book.at_ms) for one in answers)
    certificates = family(
        "ocsp_certificates",
        "Certificates that device proofs rest on, by what the newest answer about them is worth.",
        "state",
    )
    for state in OcspState:
        certificates.add_metric([state.value], states[state])
    yield certificates
    made_ms = [one.this_update_ms for one in answers if one is not None]
    if made_ms:
        yield GaugeMetricFamily(
            "assay_ocsp_oldest_answer_timestamp_seconds",
            "When the oldest of those answers was made.",
            value=min(made_ms) / 1000,
        )


def _relied_on(book: Book) -> set[str]:
    """Certificates of the device proofs that are worth something still, by their SHA-256."""
    interval_s = book.policy.evidence.device_interval_s
    proofs = (_proof_here(line) for line in book.lines.values())
    return {
        name
        for proof in proofs
        if proof is not None and worth_bps(book.at_ms - proof.at_ms, interval_s, book.policy)
        for name in proof.certificates
    }
