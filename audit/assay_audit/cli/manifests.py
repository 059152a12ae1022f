"""Reference manifests for `assay evidence verify`: whether a device measured what its maker published.

Needs the extra `rim`; a report is checked without one, as far as its own signature goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assay_core.errors import AssayError, FileError
from assay_core.evidence.nvidia import BadEvidence, Proof

if TYPE_CHECKING:
    from assay_core.evidence.rim import Manifest

_EXPIRED: Final = ". A manifest's signer expires: --at checks as of the evidence's time"


@dataclass(frozen=True, slots=True)
class Measured:
    """How many measurements of which manifest the device's report has, all of them."""

    manifest_sha256: str
    product: str
    version: str
    matched: int


def read(paths: Sequence[Path], at_ms: int) -> tuple[Manifest, ...]:
    """The manifests in the files, their signatures checked as of `at_ms`. Raises AssayError."""
    try:
        from assay_core.evidence import rim  # noqa: PLC0415 - needs the extra `rim`
    except ModuleNotFoundError as error:
        raise AssayError(
            f"--rim needs the extra `rim` ({error.name} is not installed): in a clone of this "
            "project, pip install '.[rim]'"
        ) from error
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found.append(rim.read(file.read(rim.RIM_BYTES_MAX + 1), at_ms=at_ms))
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}") from error
        except BadEvidence as error:
            hint = "" if "not valid at that time" not in str(error) else _EXPIRED
            raise FileError(f"{path}: {error}{hint}") from error
    return tuple(found)


def measured(manifests: Sequence[Manifest], proof: Proof) -> Measured:
    """That the device measured what the manifest of its firmware has. Raises BadEvidence."""
    from assay_core.evidence import rim  # noqa: PLC0415 - whoever has a manifest has the extra

    mine = [one for one in manifests if rim.matches(one, proof)]
    if not mine:
        raise BadEvidence("no manifest given is of its firmware")
    for one in mine:
        wrong = rim.mismatches(one, proof.report)
        if wrong:
            raise BadEvidence(
                f"measurements {list(wrong)} are not those of {one.product} {one.version}"
            )
    first = mine[0]
    matched = sum(len(one.measurements) for one in mine)
    return Measured(first.sha256, first.product, first.version, matched)
