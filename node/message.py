"""What every message between fetch and apply is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from embrasure.trust.documents import Document

Word = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9:_.-]{0,95}$")]
Sentence = Annotated[str, Meta(max_length=512)]
HoldText = Annotated[str, Meta(max_length=160)]
App = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9-]{0,47})?$")]
EndStatus = Literal["ok", "not-found", "unavailable", "refused"]


class Message(Document, frozen=True, kw_only=True, tag_field="is"):
    """One message; its member `is` names it."""
