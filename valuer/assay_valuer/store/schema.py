"""The tables. SQLAlchemy Core's generic types only, so that PostgreSQL takes them as they are.

The ledger is the truth; every other table is a registry or a projection that a replay of the
ledger can rebuild. Times are UTC milliseconds, money is micro-dollars, both plain integers.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA: Final = MetaData()

_Key = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone

LEDGER_ENTRY: Final = Table(
    "ledger_entry",
    METADATA,
    # Gap-free from 0: one more than the largest, taken inside the transaction that appends.
    Column("position", _Key, primary_key=True, autoincrement=False),
    # "window", "gap", "fork", and for the valuer's own signed records "token", "enrolment", ...
    Column("kind", String(24), nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    # The host whose chain the entry belongs to; null for the valuer's own records.
    Column("host_key", _Key),
    Column("incarnation", BigInteger),
    Column("sequence", BigInteger),
    # A window's header hash; otherwise SHA-256 of the signed payload.
    Column("hash", LargeBinary(32), nullable=False),
    # The exact bytes as received, losslessly compressed; see ledger.
    Column("body", LargeBinary, nullable=False),
)
Index(
    "ledger_entry_by_chain",
    LEDGER_ENTRY.c.host_key,
    LEDGER_ENTRY.c.incarnation,
    LEDGER_ENTRY.c.sequence,
    sqlite_where=LEDGER_ENTRY.c.host_key.is_not(None),
    postgresql_where=LEDGER_ENTRY.c.host_key.is_not(None),
)
Index(
    "ledger_entry_by_kind",  # the valuer's own records, few beside what hosts send
    LEDGER_ENTRY.c.kind,
    LEDGER_ENTRY.c.position,
    sqlite_where=LEDGER_ENTRY.c.host_key.is_(None),
    postgresql_where=LEDGER_ENTRY.c.host_key.is_(None),
)

HOST: Final = Table(
    "host",
    METADATA,
    Column("key", _Key, primary_key=True),
    Column("host_id", String(255), nullable=False, unique=True),  # SPIFFE ID
    Column("site", String(64), nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("enrolled_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    Column("revoked_why", Text),
    # The chain's head for the current incarnation; moved by compare-and-swap.
    Column("head_sequence", BigInteger),
    Column("head_hash", LargeBinary(32)),
    # Of the newest window: its ledger position, and the instants verify() gave it.
    Column("head_position", BigInteger),
    Column("observed_ms", BigInteger),
    Column("received_ms", BigInteger),
    Column("source", Integer),  # assay_core.header.Source
    Column("clock_behind", Boolean),
)

SEALING_KEY: Final = Table(
    "sealing_key",
    METADATA,
    Column("fingerprint", String(64), primary_key=True),
    Column("host_key", ForeignKey("host.key"), nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    # What sequence 0 of this incarnation names as its previous header.
    Column("first_previous_hash", LargeBinary, nullable=False),
    Column("enrolled_ms", BigInteger, nullable=False),
    # The TPM's attestation key that certified it; null for a software key.
    Column("ak_name", String(68)),
    # From this sequence on another key seals; null while it may.
    Column("retired_sequence", BigInteger),
)

TPM: Final = Table(
    "tpm",
    METADATA,
    # One for each attestation key that was ever activated.
    Column("ak_name", String(68), primary_key=True),  # the TPM's name of it, hex
    Column("host_key", ForeignKey("host.key"), nullable=False),
    Column("ak_public", LargeBinary, nullable=False),  # TPM2B_PUBLIC
    # SHA-256 of the endorsement key's SubjectPublicKeyInfo: the chip, for ever one host's.
    Column("ek_sha256", String(64), nullable=False),
    # The root that its certificates lead to; null where they lead to none that is listed.
    Column("root_sha256", String(64)),
    # What its certificates say of it, or why they lead nowhere.
    Column("detail", Text, nullable=False),
    Column("certificates", Text, nullable=False),  # JSON list of base64, as they were sent
    Column("enrolled_ms", BigInteger, nullable=False),
)
Index("tpm_by_ek", TPM.c.ek_sha256)
Index("tpm_by_host", TPM.c.host_key)

CERTIFICATE: Final = Table(
    "certificate",
    METADATA,
    Column("serial", String(64), primary_key=True),  # hex
    Column("host_key", ForeignKey("host.key"), nullable=False),
    Column("issued_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    # Fingerprint of the sealing key that asked for it; null for those of before keys were replaced.
    Column("sealing_key", String(64)),
)

TOKEN: Final = Table(
    "token",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("secret_sha256", LargeBinary(32), nullable=False),
    Column("site", String(64), nullable=False),
    Column("hosts_max", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    # Set where the token enrols an existing host anew, as its next incarnation.
    Column("host_key", ForeignKey("host.key")),
)

TOKEN_USE: Final = Table(
    "token_use",
    METADATA,
    Column("token_id", ForeignKey("token.id"), primary_key=True),
    Column("fingerprint", ForeignKey("sealing_key.fingerprint"), primary_key=True),
    Column("used_ms", BigInteger, nullable=False),
)

ASSET: Final = Table(
    "asset",
    METADATA,
    Column("id", _Key, primary_key=True),
    # Bound identifiers; null until known. Never the index, never the UUID alone.
    Column("serial", String(64)),
    Column("board_part_number", String(64)),
    Column("pdi", String(20)),  # decimal of the 64 bits: SQLite's integers are signed
    Column("uuid", LargeBinary(16)),
    # The product's name, which the price table's models are matched with.
    Column("name", String(128)),
    Column("host_key", ForeignKey("host.key")),
    Column("first_seen_ms", BigInteger),  # null while EXPECTED
    Column("seen_ms", BigInteger),  # observed_ms of the newest window that saw it
    Column("position", BigInteger),  # ledger position of that window
    Column("simulated", Boolean),
    # JSON of what the newest windows said of it, as standing needs it.
    Column("condition", Text),
    # Its incidents, open and ended, and what they are judged from: assay_core.health's packed state.
    Column("health", LargeBinary),
    # JSON of findings that move no value, and of the lifetime counters as last told.
    Column("notes", Text),
    # Set while its host speaks and it does not.
    Column("missing_since_ms", BigInteger),
    # SHA-256 of its identity key (hex), once a device proved that it is this one.
    Column("identity", String(64), unique=True),
    # JSON of proofs, claims of others, freezes and transitions: standing.trust.AssetTrust.
    Column("trust", Text),
    UniqueConstraint("serial", "board_part_number", name="asset_by_serial"),
)
Index("asset_by_uuid", ASSET.c.uuid)
Index("asset_by_host", ASSET.c.host_key)

PROJECTION: Final = Table(
    "projection",
    METADATA,
    # How far a projection has followed the ledger; one row each.
    Column("name", String(32), primary_key=True),
    Column("next_position", BigInteger, nullable=False),
)

UPTIME: Final = Table(
    "uptime",
    METADATA,
    # Spans in which the valuer itself served: silence while it was down is ours.
    Column("begin_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("end_ms", BigInteger, nullable=False),
)

PRICE_SNAPSHOT: Final = Table(
    "price_snapshot",
    METADATA,
    Column("sha256", String(64), primary_key=True),  # of the canonical JSON
    Column("imported_ms", BigInteger, nullable=False),
    Column("rows", Text, nullable=False),  # canonical JSON
)

LOAN: Final = Table(
    "loan",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("feed_id", LargeBinary(32), nullable=False, unique=True),
    Column("imported_ms", BigInteger, nullable=False),
    Column("terms", Text, nullable=False),  # the file's own shape, canonical JSON
)

PLEDGE: Final = Table(
    "pledge",
    METADATA,
    # An asset is pledged to one loan at a time, fleet-wide.
    Column("asset_id", ForeignKey("asset.id"), primary_key=True),
    Column("loan_id", ForeignKey("loan.id"), nullable=False),
    # Who alone may show it, where the loan says so: a site, or a host by its id.
    Column("site", String(64)),
    Column("host_id", String(255)),
    # The pledged asset that this one takes the place of, from when it is first seen.
    Column("successor_of", BigInteger),
)

HOST_TRUST: Final = Table(
    "host_trust",
    METADATA,
    # A projection: what a host's evidence has shown, and what it is frozen for.
    Column("host_key", ForeignKey("host.key"), primary_key=True),
    Column("trust", Text, nullable=False),  # JSON: standing.trust.HostTrust
)

OCSP: Final = Table(
    "ocsp",
    METADATA,
    # The newest answer about a device's certificate; asked again before it is too old.
    Column("certificate_sha256", String(64), primary_key=True),
    Column("identity", String(64), nullable=False),  # of the device whose chain it is in
    Column("status", String(16), nullable=False),  # good, revoked, unknown
    Column("this_update_ms", BigInteger, nullable=False),
    Column("next_update_ms", BigInteger, nullable=False),
    Column("checked_ms", BigInteger, nullable=False),
    Column("response", LargeBinary, nullable=False),
)
Index("ocsp_by_identity", OCSP.c.identity)

PARTY: Final = Table(
    "party",
    METADATA,
    # Whoever may sign asset events, by a key of their own.
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),  # lender, operator, custodian
    Column("algorithm", String(16), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("fingerprint", String(64), nullable=False, unique=True),
    # Sites that an operator or custodian speaks for, JSON list; empty: all.
    Column("sites", Text, nullable=False),
    Column("added_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
)

ASSET_EVENT: Final = Table(
    "asset_event",
    METADATA,
    # What was proposed of assets and hosts, and what became of it. History is in the ledger.
    Column("id", _Key, primary_key=True),
    Column("kind", String(24), nullable=False),
    Column("state", String(16), nullable=False),  # proposed, accepted, refused, withdrawn
    Column("payload", LargeBinary, nullable=False),  # the exact bytes that are signed
    Column("payload_sha256", LargeBinary(32), nullable=False, unique=True),
    Column("signatures", Text, nullable=False),  # JSON list: who signed, as what, when
    Column("proposed_ms", BigInteger, nullable=False),
    Column("decided_ms", BigInteger),
    Column("detail", Text, nullable=False),
    # Who proposed it, and until when it can be decided (null: always): how many are open is asked
    # of the indexes alone, however many there ever were.
    Column("proposer", String(255), nullable=False),
    Column("until_ms", BigInteger),
)
Index("asset_event_open", ASSET_EVENT.c.state, ASSET_EVENT.c.until_ms, ASSET_EVENT.c.proposer)
Index("asset_event_by_proposer", ASSET_EVENT.c.proposer, ASSET_EVENT.c.proposed_ms)
Index("asset_event_by_decision", ASSET_EVENT.c.decided_ms)

VALUATION: Final = Table(
    "valuation",
    METADATA,
    # The newest of each asset; history is in the ledger.
    Column("asset_id", ForeignKey("asset.id"), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),  # of its ledger entry
    Column("result", Text, nullable=False),  # JSON: standing, values, findings
)

LOAN_POSITION: Final = Table(
    "loan_position",
    METADATA,
    Column("loan_id", ForeignKey("loan.id"), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("result", Text, nullable=False),  # JSON
)

COVENANT: Final = Table(
    "covenant",
    METADATA,
    # Every covenant file that was taken; the latest version that took effect is in force.
    Column("loan_id", ForeignKey("loan.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False),  # of the payload
    Column("payload", LargeBinary, nullable=False),  # the exact bytes that were signed
    Column("signatures", Text, nullable=False),  # JSON list: who signed, as what
    Column("imported_ms", BigInteger, nullable=False),
)

COVENANT_STATE: Final = Table(
    "covenant_state",
    METADATA,
    # The newest of each loan; history is in the ledger.
    Column("loan_id", ForeignKey("loan.id"), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # JSON: what the next step goes on from
    Column("result", Text, nullable=False),  # JSON: the covenant position
)

COVENANT_STEP: Final = Table(
    "covenant_step",
    METADATA,
    # Where in the ledger each step stands that changed a loan's covenant state.
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("loan_id", ForeignKey("loan.id"), nullable=False),
)
Index("covenant_step_by_loan", COVENANT_STEP.c.loan_id)

MARKET_FEED: Final = Table(
    "market_feed",
    METADATA,
    # How each source of price rows was last found.
    Column("name", String(64), primary_key=True),
    Column("etag", Text),
    Column("last_modified", Text),
    Column("content_sha256", String(64)),
    Column("asked_ms", BigInteger, nullable=False),
    Column("answered_ms", BigInteger),  # the last time that it gave something that could be read
    Column("changed_ms", BigInteger),  # the last time that what it gave was new
    Column("error", Text),  # why the newest answer was none; null where it was one
)

MARKET_ROW: Final = Table(
    "market_row",
    METADATA,
    # Every price row that any feed ever gave, once; never changed but for what the gate last said.
    Column("id", _Key, primary_key=True),
    Column("feed", String(64), nullable=False),
    Column("market", String(16), nullable=False),  # rental, resale
    Column("sha256", LargeBinary(32), nullable=False),  # of the body
    Column("received_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),  # the row's cells as they came, canonical JSON
    # Why the newest snapshot left it out; null where it counts, or was not judged yet.
    Column("reason", String(32)),
    Column("detail", Text),
    UniqueConstraint("feed", "sha256", name="market_row_once"),
)
Index("market_row_by_reason", MARKET_ROW.c.reason)

MARKET_SNAPSHOT: Final = Table(
    "market_snapshot",
    METADATA,
    # What counted at one time: the rows up to `last_row`, as the gate judged them.
    Column("sha256", String(64), primary_key=True),
    Column("made_ms", BigInteger, nullable=False),
    Column("last_row", BigInteger, nullable=False),
    Column("summary", Text, nullable=False),  # JSON: day, counts by feed and by reason
)

MARKET_PARAMETERS: Final = Table(
    "market_parameters",
    METADATA,
    # What was fitted to a snapshot; the newest is in use.
    Column("sha256", String(64), primary_key=True),
    Column("snapshot_sha256", String(64), nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON: valuation.parameters.Parameters
)
Index("market_parameters_by_time", MARKET_PARAMETERS.c.made_ms)

VALUATION_CASE: Final = Table(
    "valuation_case",
    METADATA,
    # Everything that a value was worked out from, once for all GPUs that are alike.
    Column("sha256", String(64), primary_key=True),
    Column("made_ms", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),  # of the ledger entry that has it
)

MARK: Final = Table(
    "mark",
    METADATA,
    # What a product was worth, or a GPU-hour of it, on a day: what forecasts are scored by.
    Column("product", String(256), primary_key=True),
    Column("quantity", String(16), primary_key=True),  # value, rental, hardware
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("micros", BigInteger, nullable=False),
    Column("parameters_sha256", String(64)),
)

MARK_FORECAST: Final = Table(
    "mark_forecast",
    METADATA,
    # What was forecast of a mark on its own day, before anybody knew how it would come out.
    Column("product", String(256), primary_key=True),
    Column("quantity", String(16), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("horizon_days", Integer, primary_key=True, autoincrement=False),
    Column("q025_micros", BigInteger, nullable=False),
    Column("q10_micros", BigInteger, nullable=False),
    Column("q50_micros", BigInteger, nullable=False),
    Column("q90_micros", BigInteger, nullable=False),
    Column("q975_micros", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),  # of its ledger entry
)

APPRAISAL: Final = Table(
    "appraisal",
    METADATA,
    # Every appraisal that a registered appraiser signed and that was taken.
    Column("sha256", String(64), primary_key=True),  # of the payload
    Column("appraiser", String(64), nullable=False),
    Column("payload", LargeBinary, nullable=False),  # the exact bytes that were signed
    Column("signatures", Text, nullable=False),  # JSON list: who signed, as what
    Column("imported_ms", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),  # of its ledger entry
)

APPRAISED: Final = Table(
    "appraised",
    METADATA,
    # What each appraisal says of each asset.
    Column("appraisal_sha256", ForeignKey("appraisal.sha256"), primary_key=True),
    Column("asset_id", ForeignKey("asset.id"), primary_key=True),
    Column("micros", BigInteger, nullable=False),
)
Index("appraised_by_asset", APPRAISED.c.asset_id)

VALUE_OVERRIDE: Final = Table(
    "value_override",
    METADATA,
    # Values that two people signed in the place of the automated one; the newest of an asset holds.
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # of its decision
    Column("asset_id", ForeignKey("asset.id"), primary_key=True),
    Column("micros", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("signed_by", Text, nullable=False),  # JSON list of names
)

LOAN_STATE: Final = Table(
    "loan_state",
    METADATA,
    # What each loan's router last said of it on the chain, and why it has said nothing since.
    Column("loan_id", ForeignKey("loan.id"), primary_key=True),
    Column("asked_ms", BigInteger, nullable=False),
    Column("view", Text, nullable=False),  # JSON: credit.chain_state.ChainView
)

OUTBOX: Final = Table(
    "outbox",
    METADATA,
    Column("id", _Key, primary_key=True),
    Column("chain_id", BigInteger, nullable=False),
    Column("hub", String(42), nullable=False),
    Column("feed_id", LargeBinary(32), nullable=False),
    Column("round", BigInteger, nullable=False),
    # planned, quorum_signed, broadcast, included, final, superseded, failed
    Column("state", String(16), nullable=False),
    Column("report", Text, nullable=False),  # JSON of the report's fields
    Column("signatures", Text, nullable=False),  # JSON list of hex
    Column("sender", String(42)),
    Column("nonce", BigInteger),
    Column("raw_transactions", Text, nullable=False),  # JSON list of hex, newest last
    Column("block_hash", String(66)),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("detail", Text),
    UniqueConstraint("chain_id", "hub", "feed_id", "round", name="outbox_by_round"),
)
