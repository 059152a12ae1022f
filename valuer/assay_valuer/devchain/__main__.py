"""`python -m assay_valuer.devchain --port 0 --port-file FILE`: runs until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from eth_account import Account

from assay_valuer.devchain.accounts import development_keys
from assay_valuer.devchain.evm import CHAIN_ID
from assay_valuer.devchain.server import DevChainServer


def main() -> int:
    """Serves until SIGTERM or SIGINT; 0 then."""
    parser = argparse.ArgumentParser(prog="assay_valuer.devchain", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--port-file", type=Path, help="written once the chain answers")
    options = parser.parse_args()
    try:
        server = DevChainServer(options.host, options.port)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"devchain: {error}\n")
        return 2

    def stop(_signal: int, _frame: object) -> None:
        # shutdown() waits for the loop below, which this handler has interrupted.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if options.port_file is not None:
        partial = options.port_file.with_name(options.port_file.name + ".part")
        partial.write_text(f"{server.port}\n")
        partial.replace(options.port_file)
    lines = [
        f"development chain {CHAIN_ID} on http://{options.host}:{server.port}",
        "its accounts are funded with keys that EVERYBODY knows; they are worth nothing:",
        *(f"  {Account.from_key(key).address}" for key in development_keys()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
