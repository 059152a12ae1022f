"""What the oracle says is a loan's LTV: its covenant's where it has one, the house's where it has none."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core.covenant import Premise
from assay_core.seal import Ed25519Signer
from assay_core.signatories import Role
from assay_core.units import ratio_bps_up
from assay_valuer.covenants import import_covenant
from assay_valuer.parties import Party, add_party
from tests.fakes import chain
from tests.fakes.covenant import covenant_file, signed
from tests.integration.test_publish_held import ONE, TWO, World


@pytest.fixture(scope="module")
def evm(tmp_path_factory):
    with chain.devchain(tmp_path_factory.mktemp("covenant-chain")) as running:
        yield running


def test_a_round_has_the_covenants_ltv_or_the_risk_positions(evm, tmp_path):
    world = World(evm, tmp_path)
    books, keys = world.books, {}
    for name, role in (("alice", Role.LENDER), ("bob", Role.OPERATOR)):
        keys[name] = Ed25519Signer(Ed25519PrivateKey.generate())
        party = Party(name, role, keys[name].public_key, (), 1, None)
        books.database.write(lambda c, party=party: add_party(c, party, books.key, 1))
    file = signed(covenant_file(premise=Premise.FMV), keys["alice"], keys["bob"])
    books.database.write(
        lambda c: import_covenant(c, file, loan=ONE, signer=books.key, now_ms=world.host.now_ms)
    )
    book = world.book()
    world.step(book)
    # 100,000 dollars on two H100s is more than they are worth, by either premise.
    for loan, premise in ((ONE, "fmv"), (TWO, "olv")):
        position, report = book.positions[loan], world.newest(loan).report
        against = getattr(position.values, premise).mid
        assert report.ltv_gross_bps == ratio_bps_up(position.debt.micros, against.micros)
        assert report.olv == position.values.olv.mid
    books.close()
