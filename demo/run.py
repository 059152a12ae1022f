"""`make demo`: the whole way of a reading, from a driver to a contract, on this machine.

`--once` tells the story once and exits: 0 if everything in it happened.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel

from assay_core.errors import AssayError
from assay_core.instants import format_instant
from assay_core.leaves import EventKind
from assay_core.money import Usd
from assay_valuer.oracle.hub import Hub, Reading
from assay_valuer.store.database import Database
from demo import screen, world
from demo.world import ROOT, SITES, DemoError, World

FAULTY: Final = next(site for site in SITES if site.fault_at_s is not None)
FAULTY_GPU: Final = 3
"""Which of its GPUs falls off the bus: as the scenario has it."""
BOUND: Final = next(site for site in SITES if site.tpm)


def main() -> int:
    """Runs the demo; 0 if the story was told to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="tell the story once and exit")
    once = parser.parse_args().once
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # a closed terminal leaves nothing running either
    try:
        place = world.fresh(ROOT / "build" / "demo")
    except DemoError as error:
        console.print(str(error), markup=False)
        return 1
    try:
        _tell(place, console, once=once)
    except KeyboardInterrupt:
        console.print("\nstopping ...")
    except (DemoError, AssayError) as error:
        console.print(f"[red]The demo could not go on.[/] {escape(str(error))}")
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second ^C does not leave half of it behind
        place.close()
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(place: World, console: Console, *, once: bool) -> None:
    console.print(Panel(screen.BANNER))
    rpc, url = world.start_chain(place)
    hub, keys = world.set_up_hub(place, rpc)
    console.print(f"chain {hub.domain.chain_id}, a local development EVM; hub {hub.domain.hub}")
    missing = world.start_tpm(place)
    world.set_up_valuer(place, hub, url, keys)
    console.print("valuer: authority, ledger, prices and three loans; 2 of 3 report keys must sign")
    world.add_parties(place)
    console.print("parties: olga (operator), lena and lars (lender), each with a key of their own")
    world.sign_covenant(place, SITES[0])
    console.print(f"covenant: lena and olga signed what {SITES[0].loan_id} is measured by")
    token = world.token(place)
    if missing:
        console.print(
            f"[yellow]no simulated TPM here, so every host is at L0:[/] {escape(missing)}"
        )
    for site in SITES:
        world.start_simulated(place, site, token)
        bound = site.tpm and not missing
        key = "its key lives in a simulated TPM" if bound else "its key is a file (L0)"
        console.print(f"{site.name}: enrolled by token, {key}, streaming over mutual TLS  SIM")
    if world.has_real_gpus():
        world.start_agent(place, "real", token, {"kind": "nvml"})
        console.print("real: this machine's own driver; its GPUs are pledged to nothing")
    database = world.database(place)
    feed = world.feed_of(hub, FAULTY)
    view = _watching(place, console, database, hub, live=not once)

    view("all three loans to be on the chain", _all_published)
    before = hub.latest(feed)
    console.print(_said("on the chain now", before))
    view(
        f"a GPU of {FAULTY.name} to fall off its bus, and a round without it on the chain",
        lambda v: _fell(v, before, hub, feed),
    )
    after = hub.latest(feed)
    if not missing:
        _tell_of_a_clone(place, console, token, view)
    new = world.replace_gpu(place, FAULTY, FAULTY_GPU)
    console.print(
        f"olga proposed and lena signed: GPU {FAULTY_GPU} of {FAULTY.name} goes back to its maker, "
        f"{new} takes its place"
    )
    view(
        "that GPU to be in transition, and to count again on the chain",
        lambda v: _repaired(v, hub, feed),
    )
    repaired = hub.latest(feed)
    if once:
        screen.show(console, screen.look(database, hub))
    _verify_offline(place, console)
    _replay_offline(place, console)
    console.print(
        f"\nTold in {place.age_s:.0f} s. {FAULTY.loan_id}, as read back from the contract:"
    )
    console.print(_said("round before the fault", before))
    console.print(_said("round after the fault ", after))
    console.print(_said("in transition         ", repaired))
    if not once:
        console.print("Ctrl-C ends the demo.")
        view("", lambda _: False)


def _tell_of_a_clone(
    place: World,
    console: Console,
    token: str,
    view: Callable[[str, Callable[[screen.View], bool]], None],
) -> None:
    """A host at L0 shows a GPU of a host that its TPM vouches for."""
    view(f"the TPM of {BOUND.name} to be quoted", _quoted)
    world.start_clone(place, token)
    console.print(f"clone: a host at L0 that shows the first GPU of {BOUND.name} too  SIM")
    view("the clone to be found out", lambda v: bool(v.frozen))


def _quoted(view: screen.View) -> bool:
    return all(
        row.line.assurance == 1 and row.line.counts
        for row in view.gpus
        if row.loan == BOUND.loan_id
    )


def _repaired(view: screen.View, hub: Hub, feed: bytes) -> bool:
    in_transition = any(
        row.line.presence == "in_transition" and row.line.counts
        for row in view.gpus
        if row.loan == FAULTY.loan_id
    )
    return in_transition and hub.latest(feed).coverage_bps == 10_000


def _watching(
    place: World, console: Console, database: Database, hub: Hub, *, live: bool
) -> Callable[[str, Callable[[screen.View], bool]], None]:
    """A way to wait for something while the table goes on."""

    def until(what: str, done: Callable[[screen.View], bool]) -> None:
        if not live:
            console.print(f"waiting for {what} ...")
            world.wait(place, what, lambda: done(screen.look(database, hub)), timeout_s=60)
            return
        with Live(console=console) as table:
            end = time.monotonic() + 60
            while True:
                now = screen.look(database, hub)
                table.update(screen.render(console, now))
                if done(now):
                    return
                place.check()
                if what and time.monotonic() > end:
                    raise DemoError(f"waited 60 s for {what}, in vain")
                time.sleep(0.5)

    return until


def _all_published(view: screen.View) -> bool:
    return len(view.loans) == len(SITES) and all(
        row.position.counted == row.position.pledged
        and row.reading is not None
        and row.reading.coverage_bps == 10_000
        for row in view.loans.values()
    )


def _fell(view: screen.View, before: Reading, hub: Hub, feed: bytes) -> bool:
    row = view.loans[FAULTY.loan_id]
    if row.position.counted == row.position.pledged:
        return False
    now = hub.latest(feed)
    return now.round > before.round and now.coverage_bps < before.coverage_bps


def _verify_offline(place: World, console: Console) -> None:
    """Exports the window in which the GPU was lost, and has the auditor's tool check it."""
    host, sequence = world.window_with(place, EventKind.GPU_LOST)
    window, trust = place.directory / "window.json", place.directory / "trust.json"
    world.valuer(
        place, "export", "window", "--host", host, "--sequence", str(sequence), "--out", str(window)
    )
    world.valuer(place, "export", "trust", "--out", str(trust))
    console.print(f"\n$ assay verify window {window.name} --trust {trust.name}")
    console.print(
        world.run(world.tool("assay"), "verify", "window", str(window), "--trust", str(trust)),
        end="",
        markup=False,
    )


def _replay_offline(place: World, console: Console) -> None:
    """Exports all that one GPU's value rests on, and works it out again from that file alone."""
    (gpu, *_) = world.serials(SITES[0])
    case = place.directory / "case.json"
    world.valuer(place, "explain", gpu, "--export", str(case))
    console.print(f"\n$ assay-valuer explain {gpu} --export {case.name}")
    console.print(f"$ assay-valuer replay --file {case.name}")
    console.print(
        world.run(world.tool("assay-valuer"), "replay", "--file", str(case)), end="", markup=False
    )


def _said(when: str, reading: Reading) -> str:
    olv, nolv = Usd.from_wad_down(reading.olv_wad), Usd.from_wad_down(reading.nolv_wad)
    return (
        f"{when}: round {reading.round}, OLV {olv}, net {nolv}, "
        f"LTV {reading.ltv_gross_bps / 100:.2f}% gross {reading.ltv_net_bps / 100:.2f}% net, "
        f"coverage {reading.coverage_bps / 100:.1f}%, assurance L{reading.assurance & 127}, "
        f"flags {str(reading.flags.name).lower()}, "
        f"observed {format_instant(reading.observed_at_s * 1_000)}, "
        f"fresh {'yes' if reading.fresh else 'no'}"
    )


if __name__ == "__main__":
    sys.exit(main())
