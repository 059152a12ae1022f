"""The ledger: everything the valuer was told and did, in order, for ever; only ever appended to.

An entry has a gap-free position from 0, taken inside the transaction that appends it. Its body is
the exact bytes that were signed, losslessly compressed. Hosts' windows and gap records stand in it
as they came; the valuer's own acts are signed records beside them, by a key that does nothing else.
"""
