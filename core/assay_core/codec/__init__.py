"""Between exact bytes and core's types; the only room of core that touches generated code.

Decoding is strict: bytes that this schema's own writer would not have produced (unknown, duplicate
or reordered fields, padded varints, trailing data) are refused.
"""

from assay_core.codec.checks import EVENTS_MAX, ITEMS_MAX, check_leaves
from assay_core.codec.evidence import decode_evidence, encode_evidence
from assay_core.codec.headers import decode_gap, decode_header, encode_gap, encode_header
from assay_core.codec.leaves import (
    decode_leaf,
    encode_leaf,
    fields_of,
    pick,
)
from assay_core.codec.strict import TEXT_BYTES_MAX, TIME_MS_MAX, Malformed

__all__ = [
    "EVENTS_MAX",
    "ITEMS_MAX",
    "TEXT_BYTES_MAX",
    "TIME_MS_MAX",
    "Malformed",
    "check_leaves",
    "decode_evidence",
    "decode_gap",
    "decode_header",
    "decode_leaf",
    "encode_evidence",
    "encode_gap",
    "encode_header",
    "encode_leaf",
    "fields_of",
    "pick",
]
