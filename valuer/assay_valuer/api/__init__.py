"""The lender's HTTP API, for machines: loans, payments, values and the market, over TLS.

Off unless `api.listen` is set. Whoever calls shows a token; what it changes goes by the same doors as
the commands' and is a signed record in the ledger as theirs is. Needs the extra `api`.
"""

from __future__ import annotations

from assay_core.errors import ServiceError
from assay_valuer.service import ServiceContext


async def serve_api(context: ServiceContext) -> None:
    """Serves until it is cancelled, where the configuration says so. A task of the service."""
    if context.state.config.api.listen is None:
        return
    try:
        from assay_valuer.api.server import serve  # noqa: PLC0415 - needs the extra `api`
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"api.listen needs the extra `api` ({error.name} is not installed): in a clone of this "
            "project, pip install '.[valuer,oracle,api]'"
        ) from error
    await serve(context)
