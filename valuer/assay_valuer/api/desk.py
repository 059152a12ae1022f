"""What every operation needs: the store, on threads of the API's own, the caller, the clock, answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from assay_core.errors import AssayError, FileError, ServiceError
from assay_valuer.api.changes import Caller
from assay_valuer.api.problems import Code, Problem
from assay_valuer.api.tokens import ApiToken
from assay_valuer.service import ServiceContext

THREADS: Final = 4
"""Of the API alone: whatever is asked of it, what takes windows and values them has its own."""
TOKEN_STATE: Final = "assay_token"  # noqa: S105 - a name
"""Where a request has the token that let it in."""
PATH: Final = "assay_path"
"""And the pattern of its address."""

_T = TypeVar("_T")


class Desk:
    """Runs what may block, away from the loop. Errors come out as problems."""

    def __init__(self, context: ServiceContext) -> None:
        self._state = context.state
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="api")
        self.now_ms: Final = context.now_ms
        self.body_within_s: Final = context.state.config.api.body_within_s
        self.policy: Final = context.state.config.policy
        self.policy_sha256: Final = self.policy.sha256
        self.ledger_key: Final = context.state.ledger_key.public_key

    async def read(self, job: Callable[[Connection], _T]) -> _T:
        """What `job` returns from one consistent view of the store. Raises Problem."""
        return await self.work(lambda: self._state.database.read(job))

    async def write(self, job: Callable[[Connection], _T]) -> _T:
        """What `job` returns; all it wrote is durable, or none where it raised. Raises Problem."""
        return await self.work(lambda: self._state.database.write(job))

    async def work(self, job: Callable[[], _T]) -> _T:
        """What `job` returns, on a thread. Raises Problem."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)
        except ServiceError as error:
            raise Problem(Code.UNAVAILABLE, str(error), {"retry-after": "10"}) from error
        except FileError as error:
            raise Problem(Code.REFUSED, str(error)) from error
        except AssayError as error:
            raise Problem(Code.CONFLICT, str(error)) from error

    def caller(self, request: Request) -> Caller:
        """Who asks. Raises Problem where nobody was let in, which no operation that writes allows."""
        token: ApiToken | None = request.scope.get(TOKEN_STATE)
        if token is None:
            raise Problem(Code.UNAUTHORISED, "a token is needed")
        return Caller(token.name, token.id, self._state.ledger_key, self.now_ms())

    def close(self) -> None:
        """Waits for what runs; nothing that waits is begun."""
        self._threads.shutdown(cancel_futures=True)


def answer(
    content: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON. Amounts of tokens may be wider than 64 bits: they stay numbers, and exact."""
    body = json.dumps(msgspec.to_builtins(content), separators=(",", ":")).encode()
    return Response(body, status, headers, "application/json")


def etag(sha256: str) -> Mapping[str, str]:
    """The header that names a version."""
    return {"etag": f'"{sha256}"'}
