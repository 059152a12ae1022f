"""The lender's API served in this process over real TLS, on a loop of its own, and callers of it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry

from assay_valuer.api.server import serve
from assay_valuer.api.tokens import FILE, Scope, TokenFile
from assay_valuer.ca import create_authority, load_authority, write_secret
from assay_valuer.config import ApiConfig, ValuerConfig
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.registry import import_loan
from assay_valuer.service import ServiceContext
from assay_valuer.state import State, create, open_state
from tests.fakes.collateral import loan_text
from tests.fakes.events import NOW

HOUR_MS = 3_600_000


class FakeApi:
    """A state folder of its own, a throw-away authority, and the service as `run` starts it.

    Its clock stands at `now_ms` until a test moves it; TLS goes by the real one.
    """

    def __init__(self, folder: Path, real_now_ms: int, **config: object) -> None:
        self.folder = folder
        self.now_ms = NOW
        ca, ca_key = create_authority("a test", real_now_ms)
        for name, data in (("ca.pem", ca), ("ca.key", ca_key)):
            write_secret(folder / name, data)
        self.renew_certificate(real_now_ms)
        api = {
            "listen": "127.0.0.1:0",
            "certificate": str(folder / "api.pem"),
            "key": str(folder / "api.key"),
            **config,
        }
        self.config = ValuerConfig(state_dir=str(folder / "state"), api=ApiConfig(**api))  # type: ignore[arg-type]
        create(self.config, NOW)
        self.state: State = open_state(self.config)
        self.tokens = TokenFile(folder / "state" / FILE)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._listening = threading.Event()
        self.port = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def renew_certificate(self, real_now_ms: int) -> None:
        authority = load_authority(self.folder / "ca.pem", self.folder / "ca.key")
        issued = authority.issue_server(["127.0.0.1"], real_now_ms)
        for name, data in (("api.pem", issued.certificate.chain_pem), ("api.key", issued.key_pem)):
            (self.folder / name).unlink(missing_ok=True)
            write_secret(self.folder / name, data)

    def start(self) -> FakeApi:
        self._thread.start()
        if not self._listening.wait(30) or self.error is not None:
            raise AssertionError(f"the API did not start: {self.error!r}")
        return self

    def stop(self) -> None:
        if self._loop is not None and self._task is not None and self.error is None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(30)
        if self._thread.is_alive():
            raise AssertionError("the API did not stop")
        self.state.database.close()

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            context = ServiceContext(self.state, CollectorRegistry(), lambda: self.now_ms)
            self._task = asyncio.create_task(serve(context, self._heard, reload_s=0.05))
            try:
                await self._task
            except asyncio.CancelledError:
                pass
            except BaseException as error:
                self.error = error
                self._listening.set()

        asyncio.run(main())

    def _heard(self, port: int) -> None:
        self.port = port
        self._listening.set()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))

    def token(self, name: str, scope: Scope = Scope.READ, life_ms: int = HOUR_MS) -> str:
        with self.tokens.changing() as change:
            return change.create(name, scope, life_ms=life_ms, now_ms=self.now_ms)[1]

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.Client(
            base_url=self.url, verify=self.trust(), headers=headers, timeout=60, trust_env=False
        )

    def loan(self, *serials: str, **changed: object) -> None:
        text = loan_text(list(serials), **changed)  # type: ignore[arg-type]  # test data
        self.write(
            lambda c: import_loan(
                c, read_loan(text, "loan.yaml"), "loan.yaml", self.state.ledger_key, NOW
            )
        )

    def write(self, job: Callable) -> object:
        return self.state.database.write(job)

    def read(self, job: Callable) -> object:
        return self.state.database.read(job)
