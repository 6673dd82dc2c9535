"""The messages that say where a node stands; for people, never for a decision."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.trust.documents import Count, Document
from node.message import App, HoldText, Message, Sentence, Word


class NetworkAsk(Message, frozen=True, kw_only=True, tag="network"):
    """Fetch: until when (Unix seconds) the certificate that I show is good, 0 for none; and what
    keeps me from working, "" when nothing does. Only shown to people.
    """

    until: Count
    trouble: Sentence


class AppState(Document, frozen=True, kw_only=True):
    """One app of this node, as its disk has it. hold: until when its owner holds it, and why;
    until: Unix seconds at which what waits may go on, 0 when nobody knows.
    """

    app: App
    state: Word
    seq: Count
    gseq: Count
    manifest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
    detail: Sentence
    hold: HoldText
    until: Count


class Separation(Document, frozen=True, kw_only=True):
    """How the node is separated from what it runs. level: of its receipts; landlock: its version
    here, 0 for none; sync: how what it writes becomes durable.
    """

    production: bool
    sandbox: Annotated[str, Meta(max_length=32)]
    level: Count
    landlock: Count
    sync: Annotated[str, Meta(max_length=32)]


class StateNote(Message, frozen=True, kw_only=True, tag="state"):
    """Apply: where this node stands, read from its disk. trouble: what is damaged, so that a start
    only serves; network: what fetch said of itself when it could not work.
    """

    node: Annotated[str, Meta(max_length=64)]
    env: Annotated[str, Meta(max_length=16)]
    mode: Literal["push", "pull"]
    epoch: Count
    oseq: Count
    rseq: Count
    timestamp: Count
    maintenance: HoldText
    isolation: Separation
    trouble: Annotated[tuple[Sentence, ...], Meta(max_length=limits.TROUBLES_TOLD)]
    network: Sentence
    apps: Annotated[tuple[AppState, ...], Meta(max_length=64)]
