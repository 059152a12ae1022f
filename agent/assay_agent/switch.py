"""The switch from one enrolment to the next: decided in one write, carried out however often it is
cut off.

`switching.json` is the whole of the new enrolment. It is written once the certificates are here
and checked. From then on `complete` does the rest, and does all of it again after a crash:

1. What was there moves to a folder of its own, `replaced-N`: keys, certificates, and the spool with
   what it holds unsent. Nothing of it is deleted: it is evidence.
2. The new keys and certificates are written, and an empty spool whose chain begins at sequence 0
   and names the old head.
3. `switching.json` goes. Before that nothing seals: the agent completes a switch before it starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from assay_agent import keys, spool_file
from assay_agent.keys import Host, KeyStore, SealingKey, TpmFile
from assay_core.errors import HostError

_KEPT: Final = (
    keys.SEALING,
    keys.TPM,
    keys.PREVIOUS,
    keys.TLS,
    keys.AUTHORITY,
    keys.HOST,
    spool_file.FILE,
)


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new enrolment, whole, and what of the old one goes where."""

    host: Host
    sealing_key_pem: str
    """Empty: the key is in the TPM, or systemd's credential."""
    tls_pem: str
    authority_pem: str
    aside: str
    moved: list[str]
    tpm: TpmFile | None = None


def decide(
    store: KeyStore, host: Host, *, sealing_key: SealingKey, tls_pem: bytes, authority_pem: bytes
) -> Switch:
    """Writes the new enrolment down; from here on there is no way back."""
    number = 1
    while (store.state_dir / f"replaced-{number}").exists():
        number += 1
    switch = Switch(
        host=host,
        sealing_key_pem=sealing_key.pem,
        tpm=sealing_key.tpm,
        tls_pem=tls_pem.decode(),
        authority_pem=authority_pem.decode(),
        aside=f"replaced-{number}",
        moved=[name for name in _KEPT if (store.state_dir / name).exists()],
    )
    store.write(keys.SWITCHING, msgspec.json.encode(switch))
    return switch


def complete(store: KeyStore) -> None:
    """Carries out a switch that was decided, if there is one. For who holds the directory's lock."""
    path = store.state_dir / keys.SWITCHING
    if not path.exists():
        return
    switch = keys.decode(store.read(keys.SWITCHING), Switch, path)
    try:
        _put_aside(store.state_dir, switch)
        _write(store, switch)
        for begun in (keys.ENROLLING, keys.ROTATING):
            (store.state_dir / begun).unlink(missing_ok=True)
        keys.sync(store.state_dir)
        path.unlink()
        # If a power cut brought it back later, windows sealed until then would be put out of the way.
        keys.sync(store.state_dir)
    except OSError as error:
        raise HostError(
            f"the enrolment in {store.state_dir} cannot be completed ({error}); run the same again"
        ) from error


def _put_aside(state_dir: Path, switch: Switch) -> None:
    if not switch.moved:
        return
    folder = state_dir / switch.aside
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in switch.moved:
        if (folder / name).exists():
            continue  # moved before a crash: what is here now is new
        # What SQLite keeps beside a spool goes first: once the spool is there, all of it is.
        for beside in ("-wal", "-shm", "-journal", ""):
            if (state_dir / (name + beside)).exists():
                (state_dir / (name + beside)).rename(folder / (name + beside))
    keys.sync(folder)
    keys.sync(state_dir)


def _write(store: KeyStore, switch: Switch) -> None:
    if switch.sealing_key_pem:
        store.write(keys.SEALING, switch.sealing_key_pem.encode())
    if switch.tpm is not None:
        store.write(keys.TPM, msgspec.json.encode(switch.tpm))
    store.write(keys.AUTHORITY, switch.authority_pem.encode())
    store.write(keys.TLS, switch.tls_pem.encode())
    spool_file.create(
        store.state_dir / spool_file.FILE,
        host_id=switch.host.host_id,
        incarnation=switch.host.incarnation,
        first_previous_hash=bytes.fromhex(switch.host.previous_head_hash),
    )
    store.store_host(switch.host)
