"""What an operator may try with events, moves and cards, through enrolment, door and pipeline.

Each step's book is the same from a valuer that starts anew (Lives.tick).
"""

from __future__ import annotations

import pytest

from tests.fakes.lives import GPU_MAKER, Lives, frozen


@pytest.fixture
def books(tmp_path):
    with Lives(tmp_path) as made:
        yield made


def test_cards_that_change_places_stop_no_book(books):
    """Both were set free by two people and each answers under the other's serial, in one tick."""
    host = books.machine(devices=True)
    first, second = host.devices
    books.live(host)
    before = [books.line(serial, host.now_ms).asset.identity for serial in host.serials]
    host.devices = [GPU_MAKER.device(0x77), GPU_MAKER.device(0x78)]
    books.show(host, identity=True)
    books.prove(host)
    changed = {f"{serial}: identity_changed" for serial in host.serials}
    assert frozen(books.tick(host.now_ms)) == changed
    host.devices = [second, first]
    lenders = ("lena", "luis")
    books.sign("re_enrol", *host.serials, now_ms=host.now_ms, by=lenders, holder=host.id)
    books.show(host, identity=True)
    books.prove(host)
    book = books.tick(host.now_ms)
    assert frozen(book) == set()
    after = [books.line(serial, host.now_ms).asset.identity for serial in host.serials]
    assert None not in before
    assert after == before[::-1]
