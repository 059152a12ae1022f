"""Waiting for something to happen, or for a time.

Without the exceptions of a timeout: they are much of what an agent with nothing to do spends.
"""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes whoever waits for it; one at a time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[bool] | None = None

    def send(self) -> None:
        """Ends the wait, if anyone waits; what is said to nobody is forgotten."""
        _settle(self._waiter, happened=True)

    async def wait(self, until_s: float) -> bool:
        """Whether it was sent before `until_s`, by the event loop's clock."""
        loop = asyncio.get_running_loop()
        if until_s <= loop.time():
            return False
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        timer = loop.call_at(until_s, _time_is_up, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None


def _time_is_up(waiter: asyncio.Future[bool]) -> None:
    _settle(waiter, happened=False)


def _settle(waiter: asyncio.Future[bool] | None, *, happened: bool) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(happened)
