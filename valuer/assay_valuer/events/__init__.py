"""Asset events: proposed, signed, and once all who must have signed, in effect. See `desk`."""

from __future__ import annotations

from assay_valuer.events.desk import HostDesk, propose, propose_from_host, refuse, sign, withdraw
from assay_valuer.events.kept import EventError, Proposal, State, list_proposals, proposal
from assay_valuer.events.record import RECORD, DecidedEvent, from_record

__all__ = [
    "RECORD",
    "DecidedEvent",
    "EventError",
    "HostDesk",
    "Proposal",
    "State",
    "from_record",
    "list_proposals",
    "proposal",
    "propose",
    "propose_from_host",
    "refuse",
    "sign",
    "withdraw",
]
