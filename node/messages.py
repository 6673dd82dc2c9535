"""Every message between fetch and apply: exact fields, one spelling, one parser for each side.

Fetch asks (`OrderAsk`, `PollAsk`, `TrustAsk`, `StatusAsk`, `OutboxAsk`, `PostedAsk`, `ProveAsk`,
`EnrolAsk`, and those of `confirm_messages.py`). While apply works on it, it wants files; fetch
answers each `Want` with a `Pipe`, beside which a descriptor travels that the bytes come from, and
an `End`; or, when little comes, with a `Whole`. Apply notes what happens; `Done` or `Failure` is
its last word.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, TypeVar

from msgspec import Meta

from embrasure import errors, limits
from embrasure.errors import EmbrasureError, Refused, shown
from embrasure.trust import canonical as form
from embrasure.trust import layout
from embrasure.trust.documents import DATED, Base64, Count, Digest, Name, Positive, convert
from embrasure.trust.plain import read_plain
from node.ahead import Many
from node.confirm_messages import AwaitedAsk, AwaitsNote, ConfirmAsk, FreshAsk, LocalAsk, RepairAsk
from node.message import App, Sentence, Word
from node.message import EndStatus as EndStatus
from node.message import Message as Message
from node.state_messages import AppState as AppState
from node.state_messages import NetworkAsk as NetworkAsk
from node.state_messages import Separation as Separation
from node.state_messages import StateNote as StateNote

DOCUMENT = "ipc message"
D = TypeVar("D", bound=Message)
ApprovalRole = Annotated[str, Meta(pattern=rf"^({layout.APPROVAL.pattern})?$")]


class OrderAsk(Message, frozen=True, kw_only=True, tag="order"):
    """Fetch: the gateway offers this order (a DSSE envelope), with files along; obey it."""

    envelope: Base64
    ahead: Many = ()


class PollAsk(Message, frozen=True, kw_only=True, tag="poll"):
    """Fetch: see whether there is something to install in the files that I can get."""


class TrustAsk(Message, frozen=True, kw_only=True, tag="trust"):
    """Fetch: take the trust files that I can get, if they hold; nothing is installed."""


class StatusAsk(Message, frozen=True, kw_only=True, tag="status"):
    """Fetch: say where this node stands."""


class SeenAsk(Message, frozen=True, kw_only=True, tag="seen"):
    """Fetch: hand me the newest timestamp and snapshot, as they were signed; or, in the place of
    the snapshot, the file of this approval role.
    """

    approval: ApprovalRole = ""


class OutboxAsk(Message, frozen=True, kw_only=True, tag="outbox"):
    """Fetch: hand me the oldest receipts that no letterbox has taken yet."""

    limit: Annotated[int, Meta(ge=1, le=limits.LETTERBOX_SLOTS_PER_KEY)]


class PostedAsk(Message, frozen=True, kw_only=True, tag="posted"):
    """Fetch: a letterbox, or the gateway, has taken these receipts."""

    rseqs: Annotated[tuple[Positive, ...], Meta(max_length=limits.OUTBOX_RECEIPTS)]


class ProveAsk(Message, frozen=True, kw_only=True, tag="prove"):
    """Fetch: the gateway with this certificate (SHA-256) relays a challenge for this node."""

    challenge: Base64
    gateway: Digest


class EnrolAsk(Message, frozen=True, kw_only=True, tag="enrol"):
    """Fetch: the gateway relays the answer to this node's statement, and trust files to want."""

    answer: Base64


class Pipe(Message, frozen=True, kw_only=True, tag="pipe"):
    """Fetch: the bytes of want `id` come out of the descriptor beside this message."""

    id: Positive


class End(Message, frozen=True, kw_only=True, tag="end"):
    """Fetch: no more bytes of want `id` come; `length` of them went into its pipe."""

    id: Positive
    status: EndStatus
    length: Count
    got: Sentence


class Whole(Message, frozen=True, kw_only=True, tag="whole"):
    """Fetch: all that comes for want `id`, when it is little: the bytes themselves, or why not.

    absent: a path that the source said beside them it has not: the answer to the next want, if it
    is for that
    """

    id: Positive
    status: EndStatus
    body: Base64
    got: Sentence
    absent: Annotated[str, Meta(max_length=400)] = ""


class Want(Message, frozen=True, kw_only=True, tag="want"):
    """Apply: send me at most `limit` bytes of this repository path, from `offset` on."""

    id: Positive
    path: Annotated[str, Meta(max_length=400)]
    offset: Count
    limit: Count


class ReceiptNote(Message, frozen=True, kw_only=True, tag="receipt"):
    """Apply: a signed receipt and its sealed body; the outbox keeps a copy until it is posted."""

    rseq: Positive
    signed: Base64
    body: Base64


class ProgressNote(Message, frozen=True, kw_only=True, tag="progress"):
    """Apply: where the install stands; for people."""

    state: Word
    done: Count
    total: Count


class AnswerNote(Message, frozen=True, kw_only=True, tag="answer"):
    """Apply: what became of one app; `floor` tells a gateway that is behind its number."""

    kind: Word
    reason: Sentence
    app: App
    floor: Count


class TrustNote(Message, frozen=True, kw_only=True, tag="trusted"):
    """Apply: what became of trust files: role -> new version, what is missing, why not."""

    taken: Annotated[dict[Name, Positive], Meta(max_length=16)]
    missing: Annotated[tuple[Sentence, ...], Meta(max_length=32)]
    refused: Annotated[dict[Name, Word], Meta(max_length=16)]


class PostNote(Message, frozen=True, kw_only=True, tag="post"):
    """Apply: one letterbox post, its header (a DSSE envelope) and its sealed body."""

    rseq: Positive
    header: Base64
    body: Base64


class ProvedNote(Message, frozen=True, kw_only=True, tag="proved"):
    """Apply: the answer to a challenge (a DSSE envelope)."""

    proof: Base64


class SeenNote(Message, frozen=True, kw_only=True, tag="shown"):
    """Apply: the newest verified files, as they were served; empty for none."""

    timestamp: Annotated[str, Meta(max_length=2 * limits.TIMESTAMP_BYTES)]
    snapshot: Annotated[str, Meta(max_length=2 * limits.SEEN_BYTES)]
    approval: Annotated[str, Meta(max_length=2 * limits.SEEN_BYTES)] = ""


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """Apply: the conversation ended well."""


class Failure(Message, frozen=True, kw_only=True, tag="failure"):
    """Apply: the conversation ended with this error."""

    error: Literal[
        "Damaged", "Denied", "Failed", "Misuse", "NotFound", "NotSupported", "Refused",
        "Unavailable",
    ]  # fmt: skip
    thing: Sentence
    expected: Sentence
    got: Sentence
    untouched: Sentence
    hint: Sentence
    reason: Sentence


FromFetch: TypeAlias = (
    OrderAsk
    | Whole
    | ConfirmAsk
    | FreshAsk
    | LocalAsk
    | AwaitedAsk
    | PollAsk
    | RepairAsk
    | TrustAsk
    | StatusAsk
    | SeenAsk
    | OutboxAsk
    | PostedAsk
    | ProveAsk
    | EnrolAsk
    | NetworkAsk
    | Pipe
    | End
)
FromApply: TypeAlias = (
    Want
    | ReceiptNote
    | ProgressNote
    | AnswerNote
    | AwaitsNote
    | TrustNote
    | PostNote
    | StateNote
    | SeenNote
    | ProvedNote
    | Done
    | Failure
)

_FROM_FETCH: dict[str, type[FromFetch]] = {
    "order": OrderAsk, "poll": PollAsk, "trust": TrustAsk, "status": StatusAsk, "outbox": OutboxAsk,
    "seen": SeenAsk, "posted": PostedAsk, "prove": ProveAsk, "enrol": EnrolAsk, "pipe": Pipe,
    "end": End, "whole": Whole, "confirm": ConfirmAsk, "fresh": FreshAsk, "awaited": AwaitedAsk,
    "local": LocalAsk, "repair": RepairAsk, "network": NetworkAsk,
}  # fmt: skip
_FROM_APPLY: dict[str, type[FromApply]] = {
    "want": Want, "receipt": ReceiptNote, "progress": ProgressNote, "answer": AnswerNote,
    "trusted": TrustNote, "post": PostNote, "state": StateNote, "proved": ProvedNote, "done": Done,
    "failure": Failure, "shown": SeenNote, "awaits": AwaitsNote,
}  # fmt: skip
_ERRORS: dict[str, type[EmbrasureError]] = {
    "Damaged": errors.Damaged, "Denied": errors.Denied, "Failed": errors.Failed,
    "Misuse": errors.Misuse, "NotFound": errors.NotFound, "NotSupported": errors.NotSupported,
    "Refused": errors.Refused, "Unavailable": errors.Unavailable,
}  # fmt: skip


def write_message(message: Message) -> bytes:
    """Return the one byte string of `message`; raises Refused (`limit`) for a too large one."""
    raw = form.written(message)
    if len(raw) > limits.IPC_BYTES:
        raise Refused(
            DOCUMENT, expected=f"at most {limits.IPC_BYTES} bytes", got=len(raw), reason="limit"
        )
    return raw


def parse_from_fetch(raw: bytes) -> FromFetch:
    """Return the message of fetch in `raw`; raises Refused only."""
    if (plain := _plain(raw, _FROM_FETCH)) is not None:
        return plain
    value = form.parse(raw, limit=limits.IPC_BYTES, document=DOCUMENT)
    return convert(value, _FROM_FETCH[_name(value, frozenset(_FROM_FETCH))], DOCUMENT)


def parse_from_apply(raw: bytes) -> FromApply:
    """Return the message of apply in `raw`; raises Refused only."""
    if (plain := _plain(raw, _FROM_APPLY)) is not None:
        return plain
    value = form.parse(raw, limit=limits.IPC_BYTES, document=DOCUMENT)
    return convert(value, _FROM_APPLY[_name(value, frozenset(_FROM_APPLY))], DOCUMENT)


_NAMED = re.compile(rb'"is":"([a-z-]{1,32})"')


def _plain(raw: bytes, shapes: Mapping[str, type[D]]) -> D | None:
    """Return what the close look takes as well, None for what it has to look at."""
    if len(raw) > limits.IPC_BYTES or (named := _NAMED.search(raw)) is None:
        return None
    shape = shapes.get(named[1].decode("ascii"))  # the shape itself says whether it is that one
    return None if shape is None else read_plain(raw, shape, apart=DATED)


def _name(value: dict[str, object], known: frozenset[str]) -> str:
    name = value.get("is")
    if not isinstance(name, str) or name not in known:
        raise Refused(
            DOCUMENT, expected="a message of this side", got=repr(name), reason="bad-schema"
        )
    return name


def pack(data: bytes) -> str:
    """Return `data` as it travels in a message."""
    return base64.b64encode(data).decode("ascii")


def unpack(text: str) -> bytes:
    """Return the bytes that `pack` packed; raises Refused."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(DOCUMENT, expected="base64", got=text, reason="bad-schema") from None


def sentence(text: str) -> str:
    """Return `text` so that it fits a message: visible ASCII, cut with the cut shown."""
    return shown(text, 400).encode("ascii", "backslashreplace").decode("ascii")[:512]


def failure_of(error: EmbrasureError) -> Failure:
    """Return the message that carries `error` to the other side."""
    names = (kind.__name__ for kind in type(error).__mro__)
    name = next((name for name in names if name in _ERRORS), "Failed")
    return convert(
        {
            "is": "failure",
            "error": name,
            **{
                part: sentence(getattr(error, part))
                for part in ("thing", "expected", "got", "untouched", "hint", "reason")
            },
        },
        Failure,
        DOCUMENT,
    )


def error_of(failure: Failure) -> EmbrasureError:
    """Return the error that `failure` carries."""
    return _ERRORS[failure.error](
        failure.thing,
        expected=failure.expected,
        got=failure.got,
        untouched=failure.untouched,
        hint=failure.hint,
        reason=failure.reason,
    )
