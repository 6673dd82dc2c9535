"""Blocking work in threads, which a cancelled call waits for before it lets go of its files.

A thread cannot be stopped. Whoever closes a descriptor under it makes it write to whatever file
gets that number next, with bytes of the peer who hung up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def unbroken(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `function` returns in a thread; a cancellation is passed on after its end."""
    job = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await finished(job)
        raise


async def finished(job: asyncio.Future[T]) -> None:
    """`job` has ended, however often we are cancelled meanwhile; its own error is nobody's now."""
    while not job.done():
        try:
            await asyncio.wait({job})
        except asyncio.CancelledError:
            continue
    if not job.cancelled():
        job.exception()


@asynccontextmanager
async def entered(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """`manager`, entered and left in threads; it is left whenever it was entered."""
    job = asyncio.ensure_future(asyncio.to_thread(manager.__enter__))
    try:
        found = await asyncio.shield(job)
    except asyncio.CancelledError:
        await finished(job)
        if job.exception() is None:
            await unbroken(manager.__exit__, None, None, None)
        raise
    try:
        yield found
    finally:
        await unbroken(manager.__exit__, None, None, None)
