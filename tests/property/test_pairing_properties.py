"""One occurrence, told by two: no order of tellings loses or doubles one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from assay_agent.machine.pairing import PAIR_MS, Origin, Pairs

GPU = b"g" * 16
TIMES = st.lists(st.integers(0, 120_000), max_size=12).map(sorted)


def best(one: list[int], other: list[int]) -> int:
    """Most pairs of two sorted lists with no more than PAIR_MS between, tried exhaustively."""
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            rows[i][j] = max(
                rows[i - 1][j], rows[i][j - 1], rows[i - 1][j - 1] + (abs(a - b) <= PAIR_MS)
            )
    return rows[-1][-1]


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[int], list[int], list[tuple[Origin, int]]]:
    """Two origins, each in the order of its clock, one as late behind the other as may be."""
    driver, log = draw(TIMES), draw(TIMES)
    order = draw(st.permutations([Origin.NVML] * len(driver) + [Origin.LOG] * len(log)))
    left = {Origin.NVML: list(driver), Origin.LOG: list(log)}
    return driver, log, [(origin, left[origin].pop(0)) for origin in order]


@given(interleaved())
def test_no_order_loses_or_doubles(
    case: tuple[list[int], list[int], list[tuple[Origin, int]]],
) -> None:
    driver, log, tellings = case
    pairs = Pairs()
    told = sum(pairs.is_new(origin, GPU, 48, at_ms) for origin, at_ms in tellings)
    assert told == len(driver) + len(log) - best(driver, log)


@given(TIMES, st.data())
def test_what_both_tell_is_told_once(times: list[int], data: st.DataObject) -> None:
    """Whatever the delay between them within the limit, and whoever is first."""
    delays = data.draw(st.lists(st.integers(0, PAIR_MS), min_size=len(times), max_size=len(times)))
    log = sorted(at + delay for at, delay in zip(times, delays, strict=True))
    tellings = [(Origin.NVML, at) for at in times] + [(Origin.LOG, at) for at in log]
    if data.draw(st.booleans()):
        tellings.reverse()
        tellings.sort(key=lambda one: one[0] is Origin.NVML)  # the log's first
    by_origin = {o: sorted(at for p, at in tellings if p is o) for o, _ in tellings}
    pairs = Pairs()
    told = sum(
        pairs.is_new(origin, GPU, 79, at) for origin in dict(tellings) for at in by_origin[origin]
    )
    assert told == len(times)


@given(interleaved(), st.data())
def test_words_beside_a_number_add_nothing(
    case: tuple[list[int], list[int], list[tuple[Origin, int]]], data: st.DataObject
) -> None:
    """The driver often says in words what it has just said by a number: any number of times."""
    _, _, tellings = case
    plain, worded = Pairs(), Pairs()
    for origin, at_ms in tellings:
        assert worded.is_new(origin, GPU, 79, at_ms) == plain.is_new(origin, GPU, 79, at_ms)
        for _ in range(data.draw(st.integers(0, 2))):
            assert not worded.is_new(Origin.WORDS, GPU, 79, at_ms)


@given(st.integers(0, PAIR_MS), st.permutations([Origin.NVML, Origin.LOG, Origin.WORDS]))
def test_three_tellings_are_one(apart_ms: int, order: list[Origin]) -> None:
    pairs = Pairs()
    first, *others = order
    assert pairs.is_new(first, GPU, 79, 0)
    assert not any(pairs.is_new(origin, GPU, 79, apart_ms) for origin in (*others, Origin.WORDS))
    assert pairs.is_new(first, GPU, 79, apart_ms) is (first is not Origin.WORDS)


@given(
    st.lists(
        st.tuples(
            st.sampled_from((Origin.NVML, Origin.LOG)),
            st.sampled_from((b"a" * 16, b"b" * 16)),
            st.sampled_from((31, 48)),
            st.integers(0, 30_000),
        ),
        max_size=30,
    )
)
def test_gpus_and_codes_are_apart(tellings: list[tuple[Origin, bytes, int, int]]) -> None:
    whole = Pairs()
    apart: dict[tuple[bytes, int], Pairs] = {}
    for origin, subject, code, at_ms in tellings:
        alone = apart.setdefault((subject, code), Pairs())
        assert whole.is_new(origin, subject, code, at_ms) == alone.is_new(
            origin, subject, code, at_ms
        )


@given(
    st.lists(
        st.tuples(st.sampled_from((Origin.NVML, Origin.LOG)), st.integers(0, 30_000)), max_size=40
    )
)
def test_never_fewer_than_one_origin_tells(tellings: list[tuple[Origin, int]]) -> None:
    """In whatever disorder they come: nothing that one origin told alone is lost."""
    pairs = Pairs()
    told = sum(pairs.is_new(origin, GPU, 63, at_ms) for origin, at_ms in tellings)
    count = Counter(origin for origin, _ in tellings)
    assert max(count.values(), default=0) <= told <= len(tellings)
