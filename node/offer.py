"""The first message of a gateway's stream: an order, and what it says along with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from google.protobuf.unknown_fields import UnknownFieldSet

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.layout import parse_wanted
from node.ahead import Ahead
from node.confirm_messages import ConfirmAsk
from node.frames import Data, parse
from node.messages import OrderAsk, pack
from node.stream import silent

if TYPE_CHECKING:
    from embrasure.wire import node_pb2 as wire


async def first_ask(requests: AsyncIterator[bytes], opened_ms: int) -> OrderAsk | ConfirmAsk:
    """Return what the first message asks of apply; raises Refused, Unavailable."""
    try:
        raw = await asyncio.wait_for(anext(requests, None), limits.FIRST_WORD_SECONDS)
    except TimeoutError:
        raise silent() from None
    if raw is None:
        raise Refused("stream", expected="an offer", got="its end", reason="bad-schema")
    first = parse(raw)
    if isinstance(first, Data):
        raise Refused("stream", expected="an offer first", got="data", reason="bad-schema")
    kind = first.WhichOneof("kind")
    order = first.confirm.order if kind == "confirm" else first.offer.order
    if kind not in ("offer", "confirm") or not 0 < len(order) <= limits.ORDER_BYTES:
        raise Refused("stream", expected="an offer first", got="else", reason="bad-schema")
    if kind == "confirm":
        return ConfirmAsk(envelope=pack(order), opened_ms=opened_ms)
    return OrderAsk(envelope=pack(order), ahead=ahead_of(first.offer.ahead))


def ahead_of(files: Sequence[wire.Ahead]) -> tuple[Ahead, ...]:
    """Return what came along, as apply gets it; raises Refused (`limit`, `bad-schema`)."""
    count, length = len(files), sum(len(file.body) for file in files)
    if count > limits.AHEAD_FILES or length > limits.AHEAD_BYTES:
        raise Refused(
            "offer", expected=f"{limits.AHEAD_FILES} files, {limits.AHEAD_BYTES} bytes along",
            got=f"{count}, {length}", reason="limit",
        )  # fmt: skip
    for file in files:
        parse_wanted(file.path)
        if len(UnknownFieldSet(file)) or (file.absent and file.body):
            raise Refused("offer", expected="a file, or none", got="else", reason="bad-schema")
    return tuple(Ahead(path=file.path, absent=file.absent, body=pack(file.body)) for file in files)
