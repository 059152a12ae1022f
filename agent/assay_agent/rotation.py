"""The next sealing key, in two phases, so that no window is lost.

1. The new key and the statement that names it are kept in `rotating.json` before they are sent,
   signed by the old key and by the new one. A lost reply is asked for again with the same bytes.
   From the valuer's answer on both keys may seal, until the new one has.
2. The answer is written into the same file, whole. From here on there is no way back: `complete`
   puts the new key in the old one's place, and does all of it again after a crash. The next window
   is sealed by the new key.

What was sealed by the old key and not yet sent goes out as it is. Should some of it have to be
dropped, the old key declares the gap, since the new key's first word ends it: so it is kept, in
`previous.json`, until the next rotation.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from assay_agent import keys, sealing
from assay_agent.keys import KeyStore, SealingKey
from assay_agent.pem import join_tls, new_sealing_key, new_tls_key, signing_request
from assay_agent.uplink import enrollment
from assay_core.errors import HostError
from assay_core.seal import Signer

Target = Literal["file", "tpm"]


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the valuer answered, and the key that goes."""

    tls_pem: str
    authority_pem: str
    old: SealingKey


class Rotating(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rotation under way."""

    to: Target
    key: SealingKey
    tls_key_pem: str
    statement: bytes
    """Its exact bytes."""
    answered: Answered | None = None
    """None: not decided yet."""


async def ask(store: KeyStore, proxy: str | None, to: Target | None, *, anew: bool) -> Target:
    """Makes a key and has the valuer take it; returns where it lives. `complete` is next.

    `to` None: where the configuration says. A rotation whose reply was lost goes on with its key,
    unless it is to go elsewhere or `anew`. Raises HostError where the valuer refuses, ServiceError
    where it cannot be reached: then run the same again.
    """
    to = to or ("file" if store.tpm_config is None else "tpm")
    host, old = store.host(), store.signer()
    pending = _pending(store)
    if pending is None or pending.to != to or anew:
        pending = await _begin(store, to)
    authority_pem = store.tls().authority_pem
    activation = await sealing.activate(
        store, pending.key, host.enrollment_endpoint, authority_pem, proxy
    )
    certificates = await enrollment.rotate(
        host.enrollment_endpoint,
        authority_pem,
        proxy,
        statement=pending.statement,
        old=old,
        new=store.signer_of(pending.key, store.state_dir / keys.ROTATING),
        activation=activation,
    )
    if (certificates.host_id, certificates.incarnation) != (host.host_id, host.incarnation):
        raise HostError("the valuer sent another host's certificate; nothing was changed")
    answered = Answered(
        tls_pem=join_tls(
            pending.tls_key_pem.encode(), certificates.chain_pem, certificates.authority_pem
        ).decode(),
        authority_pem=certificates.authority_pem.decode(),
        old=store.sealing_key(),
    )
    _keep(store, msgspec.structs.replace(pending, answered=answered))
    return to


def complete(store: KeyStore) -> None:
    """Goes over to the new key where the valuer has answered. For who holds the directory's lock."""
    pending = _pending(store)
    if pending is None or pending.answered is None:
        return
    answered, key = pending.answered, pending.key
    store.write(keys.PREVIOUS, msgspec.json.encode(answered.old))
    store.write(keys.AUTHORITY, answered.authority_pem.encode())
    store.write(keys.TLS, answered.tls_pem.encode())
    if key.tpm is None:
        store.write(keys.SEALING, key.pem.encode())
    else:
        store.write(keys.TPM, msgspec.json.encode(key.tpm))
    gone = keys.TPM if key.tpm is None else keys.SEALING
    for name in (gone, keys.ROTATING):
        try:
            (store.state_dir / name).unlink(missing_ok=True)
            keys.sync(store.state_dir)
        except OSError as error:
            raise HostError(
                f"{store.state_dir / name} cannot be removed ({error.strerror}), and the rotation is "
                "not complete; see to it, and restart the agent"
            ) from error


def told(to: Target, signer: Signer) -> str:
    """What was done, for who asked for it."""
    place = "in the TPM" if to == "tpm" else "in a file"
    return f"windows are sealed by {signer.public_key.fingerprint[:16]} from now on, a key {place}"


async def _begin(store: KeyStore, to: Target) -> Rotating:
    host, now = store.host(), store.sealing_key()
    if to == "tpm":
        key = await sealing.in_tpm(store, now.tpm)
    elif store.credential() is not None:
        raise HostError(
            "the sealing key is systemd's credential, which only who runs systemd can replace: put "
            "the new key there, and enrol the host anew"
        )
    else:
        key = SealingKey(pem=new_sealing_key().decode())
    tls = new_tls_key()
    signer = store.signer_of(key, store.state_dir / keys.ROTATING)
    statement = enrollment.rotate_statement(
        host.host_id,
        host.incarnation,
        signing_request(tls),
        signer,
        await sealing.bind(store, key),
    )
    pending = Rotating(to=to, key=key, tls_key_pem=tls.decode(), statement=statement)
    _keep(store, pending)
    return pending


def _pending(store: KeyStore) -> Rotating | None:
    path = store.state_dir / keys.ROTATING
    return keys.decode(store.read(keys.ROTATING), Rotating, path) if path.exists() else None


def _keep(store: KeyStore, rotating: Rotating) -> None:
    store.write(keys.ROTATING, msgspec.json.encode(rotating))
