"""A call that this gateway has open ends when its peer is no longer believed.

A caller cannot see the certificate that it reached; it knows whom it dialled, and by which issuers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from embrasure import limits

T = TypeVar("T")


async def while_believed(
    work: Coroutine[Any, Any, T],
    check: Callable[[], None],
    *,
    every_s: float = limits.RECHECK_SECONDS,
) -> T:
    """Return what `work` returns; it is cancelled once `check`, asked in a thread, raises.

    Raises what `work` raises, or what `check` does; either way `work` has ended.
    """
    job = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({job}, timeout=every_s))[0]:
            await asyncio.to_thread(check)
        return job.result()
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
