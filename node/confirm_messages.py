"""Messages about a release that stays only if it is confirmed, and what an administrator asks."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from embrasure.trust.documents import AppName, Base64, Count, Digest
from node.deadline import Hex16
from node.message import Message


class ConfirmAsk(Message, frozen=True, kw_only=True, tag="confirm"):
    """Fetch: the gateway confirms with this order (a DSSE envelope).

    opened_ms: CLOCK_BOOTTIME at which the listener was opened that it came through
    """

    envelope: Base64
    opened_ms: Count


class LocalAsk(Message, frozen=True, kw_only=True, tag="local"):
    """The administrator, who stands before this node: install what the files that I can get say.

    What is installed so needs nobody's word to stay. Heard of apply's own user only.
    """


class RepairAsk(Message, frozen=True, kw_only=True, tag="repair"):
    """The administrator: rebuild what differs of this app's committed release.

    I may have what is lost. Heard of apply's own user only.
    """

    app: AppName


class FreshAsk(Message, frozen=True, kw_only=True, tag="fresh"):
    """Fetch: look at a mirror through the connection that I made at `opened_ms`."""

    opened_ms: Count


class AwaitedAsk(Message, frozen=True, kw_only=True, tag="awaited"):
    """Fetch: say what awaits the gateway's word, to show it through a listener opened then."""

    opened_ms: Count


class AwaitsNote(Message, frozen=True, kw_only=True, tag="awaits"):
    """Apply: this install stays only if it is confirmed over a connection that is made from now on.

    by: whose word it waits for. nonce: what the gateway's order must name, 64 hex digits; "" where
    it is not shown.
    """

    app: AppName
    tx: Hex16
    plan: Digest
    by: Literal["gateway", "mirror"]
    nonce: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
