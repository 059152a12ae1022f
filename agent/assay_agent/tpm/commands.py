"""The commands of a TPM 2.0 that the agent needs, one method each, by handles.

Source: TCG's Trusted Platform Module Library, revision 1.59, part 3. Everything here has an empty
password but the endorsement key, which has a policy. What is loaded is flushed in the end, whether
or not a resource manager would: a TPM holds three keys.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from assay_agent.tpm import wire
from assay_agent.tpm.device import Transport
from assay_agent.tpm.errors import AGAIN, Code, TpmBusy, TpmError, kind
from assay_agent.tpm.wire import NO_PASSWORD, Answer, Command, Reader, sized, u16, u32
from assay_core.errors import AssayError
from assay_core.evidence.tpm import NULL, SHA256

OWNER: Final = 0x40000001
ENDORSEMENT: Final = 0x4000000B
_NO_HIERARCHY: Final = 0x40000007
_HASH_CHECK: Final = 0x8024
_POLICY_SESSION: Final = 0x01
_NONCE_BYTES: Final = 32
_TRIES_MAX: Final = 24
_WAIT_FIRST_S: Final = 0.01
_WAIT_MAX_S: Final = 0.5
_PCR_COUNT: Final = 24
_PCRS_IN_AN_ANSWER: Final = 8
_NV_PART_BYTES: Final = 512
"""No TPM for computers reads less at once."""
_NV_READ_BY_ITSELF: Final = 1 << 18
"""TPMA_NV_AUTHREAD: the index's own password, which is empty, lets it be read."""


def selection(pcrs: Collection[int]) -> bytes:
    """TPML_PCR_SELECTION: these PCRs of the SHA-256 bank. Raises ValueError for others than 0 to 23."""
    if not all(0 <= pcr < _PCR_COUNT for pcr in pcrs):
        raise ValueError(f"PCRs are numbered 0 to {_PCR_COUNT - 1}")
    bits = sum(1 << pcr for pcr in set(pcrs))
    return u32(1) + u16(SHA256) + b"\x03" + bits.to_bytes(3, "little")


class Commands:
    """A TPM, command by command. Every method raises TpmError or TpmBusy."""

    def __init__(self, transport: Transport, wait: Callable[[float], None] = time.sleep) -> None:
        self._transport = transport
        self._wait = wait

    def run(
        self,
        code: int,
        handles: Sequence[int],
        parameters: bytes,
        *,
        authorisations: Sequence[bytes] = (),
        handle: bool = False,
    ) -> Answer:
        """Gives a command, again for as long as the TPM puts us off."""
        name = Command(code).name.lower() if code in set(Command) else f"{code:#x}"
        message = wire.command(code, handles, authorisations, parameters)
        wait_s = _WAIT_FIRST_S
        for _ in range(_TRIES_MAX):
            data = self._transport.transact(message)
            if kind(wire.code(data)) not in AGAIN:
                return wire.answer(data, name, handle=handle, authorised=bool(authorisations))
            self._wait(wait_s)
            wait_s = min(2 * wait_s, _WAIT_MAX_S)
        raise TpmBusy(f"the TPM put {name} off {_TRIES_MAX} times; it is busy with others")

    @contextlib.contextmanager
    def primary(self, hierarchy: int, template: bytes) -> Iterator[tuple[int, bytes]]:
        """A hierarchy's key of this template: its handle, and its TPM2B_PUBLIC."""
        nothing = sized(sized(b"") + sized(b""))  # no password, no data of ours
        answer = self.run(
            Command.CREATE_PRIMARY,
            (hierarchy,),
            nothing + sized(template) + sized(b"") + u32(0),
            authorisations=(NO_PASSWORD,),
            handle=True,
        )
        with self._held(answer.handle):
            yield answer.handle, answer.parameters.whole()

    def create(self, parent: int, template: bytes) -> tuple[bytes, bytes]:
        """A new key under `parent`: TPM2B_PUBLIC, and the TPM2B_PRIVATE that this TPM alone opens."""
        nothing = sized(sized(b"") + sized(b""))
        answer = self.run(
            Command.CREATE,
            (parent,),
            nothing + sized(template) + sized(b"") + u32(0),
            authorisations=(NO_PASSWORD,),
        )
        private = answer.parameters.whole()
        return answer.parameters.whole(), private

    @contextlib.contextmanager
    def load(self, parent: int, public: bytes, private: bytes) -> Iterator[int]:
        """The handle of a key that `create` made."""
        answer = self.run(
            Command.LOAD,
            (parent,),
            private + public,
            authorisations=(NO_PASSWORD,),
            handle=True,
        )
        with self._held(answer.handle):
            yield answer.handle

    def read_public(self, handle: int) -> bytes | None:
        """A loaded or persistent key's TPM2B_PUBLIC; None where there is no such key."""
        answer = self._if_there(Command.READ_PUBLIC, handle)
        return answer.whole() if answer else None

    def certify(self, key: int, signer: int, qualifying: bytes) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE: `key` is in this TPM, says `signer`."""
        answer = self.run(
            Command.CERTIFY,
            (key, signer),
            sized(qualifying) + u16(NULL),
            authorisations=(NO_PASSWORD, NO_PASSWORD),
        )
        return answer.parameters.sized(), answer.parameters.rest()

    def quote(self, signer: int, pcrs: Collection[int], qualifying: bytes) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE over these PCRs of the SHA-256 bank."""
        answer = self.run(
            Command.QUOTE,
            (signer,),
            sized(qualifying) + u16(NULL) + selection(pcrs),
            authorisations=(NO_PASSWORD,),
        )
        return answer.parameters.sized(), answer.parameters.rest()

    def sign(self, key: int, digest: bytes) -> bytes:
        """The TPMT_SIGNATURE of a key that signs what it is given."""
        not_checked = u16(_HASH_CHECK) + u32(_NO_HIERARCHY) + sized(b"")
        answer = self.run(
            Command.SIGN,
            (key,),
            sized(digest) + u16(NULL) + not_checked,
            authorisations=(NO_PASSWORD,),
        )
        return answer.parameters.rest()

    def activate(self, key: int, endorsement: int, blob: bytes, secret: bytes) -> bytes:
        """What a credential for `key` in this TPM holds. TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET."""
        with self._endorsed() as session:
            answer = self.run(
                Command.ACTIVATE_CREDENTIAL,
                (key, endorsement),
                blob + secret,
                authorisations=(
                    NO_PASSWORD,
                    wire.authorisation(session, os.urandom(_NONCE_BYTES)),
                ),
            )
        return answer.parameters.sized()

    def pcrs(self, wanted: Collection[int]) -> dict[int, bytes]:
        """Values of the SHA-256 bank, 32 bytes each. Raises ValueError as `selection`."""
        found: dict[int, bytes] = {}
        left = sorted(set(wanted))
        while left:
            answer = self.run(Command.PCR_READ, (), selection(left)).parameters
            answer.take(4)  # how often any PCR was changed
            given = _selected(answer)
            values = [answer.sized() for _ in range(min(answer.number(4), _PCRS_IN_AN_ANSWER))]
            if not given or len(given) != len(values) or not set(given) <= set(left):
                raise TpmError(
                    f"the TPM has no value for PCRs {left} in its SHA-256 bank: switch that bank on in "
                    "the machine's firmware"
                )
            found.update(zip(given, values, strict=True))
            left = [pcr for pcr in left if pcr not in found]
        return found

    def nv(self, index: int) -> bytes | None:
        """What an NV index holds; None where the TPM has none of that number."""
        described = self._if_there(Command.NV_READ_PUBLIC, index)
        if described is None:
            return None
        area = Reader(described.sized())
        area.take(6)  # the index again, and the algorithm of its name
        reader = index if area.number(4) & _NV_READ_BY_ITSELF else OWNER
        area.sized()
        size = area.number(2)
        data = b""
        while len(data) < size:
            part = min(size - len(data), _NV_PART_BYTES)
            answer = self.run(
                Command.NV_READ,
                (reader, index),
                u16(part) + u16(len(data)),
                authorisations=(NO_PASSWORD,),
            )
            read = answer.parameters.sized()
            if not read:
                raise TpmError(f"the TPM gives {len(data)} of the {size} bytes of NV {index:#010x}")
            data += read
        return data

    @contextlib.contextmanager
    def _endorsed(self) -> Iterator[int]:
        """A policy session that may use the endorsement key once."""
        answer = self.run(
            Command.START_AUTH_SESSION,
            (_NO_HIERARCHY, _NO_HIERARCHY),
            sized(os.urandom(_NONCE_BYTES))
            + sized(b"")
            + bytes((_POLICY_SESSION,))
            + u16(NULL)
            + u16(SHA256),
            handle=True,
        )
        try:
            self.run(
                Command.POLICY_SECRET,
                (ENDORSEMENT, answer.handle),
                sized(b"") + sized(b"") + sized(b"") + u32(0),
                authorisations=(NO_PASSWORD,),
            )
            yield answer.handle
        except BaseException:  # a command that went well has ended the session
            with contextlib.suppress(AssayError):
                self._flush(answer.handle)
            raise

    @contextlib.contextmanager
    def _held(self, handle: int) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(AssayError):  # what went wrong first is what is told
                self._flush(handle)
            raise
        self._flush(handle)

    def _if_there(self, code: Command, handle: int) -> Reader | None:
        """What the TPM says of a handle; None where nothing has it."""
        try:
            return self.run(code, (handle,), b"").parameters
        except TpmError as error:
            if error.code == Code.HANDLE:
                return None
            raise

    def _flush(self, handle: int) -> None:
        self.run(Command.FLUSH_CONTEXT, (handle,), b"")


def _selected(answer: Reader) -> list[int]:
    """The PCRs of a TPML_PCR_SELECTION, in the order in which their values follow."""
    found: list[int] = []
    for _ in range(min(answer.number(4), _PCR_COUNT)):
        bank = answer.number(2)
        bits = int.from_bytes(answer.take(answer.number(1)), "little")
        if bank == SHA256:
            found += [pcr for pcr in range(bits.bit_length()) if bits >> pcr & 1]
    return found
