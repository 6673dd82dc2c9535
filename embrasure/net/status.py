"""Typed errors across gRPC: a status code and one line of JSON, and the same class back again."""

from __future__ import annotations

import json
import re

import grpc

from embrasure.errors import (
    Damaged,
    Denied,
    EmbrasureError,
    Failed,
    Misuse,
    NotFound,
    Refused,
    Unavailable,
    shown,
)

MAX_DETAILS = 4096  # bytes read of a peer's details
_FIELDS = ("thing", "expected", "got", "untouched", "hint", "reason")
_Code = grpc.StatusCode
# The first class that fits decides, so subclasses stand before their parents.
_CODES: tuple[tuple[type[EmbrasureError], grpc.StatusCode], ...] = (
    (Misuse, _Code.INVALID_ARGUMENT),
    (Denied, _Code.PERMISSION_DENIED),
    (Refused, _Code.FAILED_PRECONDITION),
    (NotFound, _Code.NOT_FOUND),
    (Unavailable, _Code.UNAVAILABLE),
    (Damaged, _Code.DATA_LOSS),
    (Failed, _Code.ABORTED),
)
_AGAIN = frozenset(
    {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.RESOURCE_EXHAUSTED, _Code.CANCELLED}
)


def status_of(error: EmbrasureError) -> tuple[grpc.StatusCode, str]:
    """Return the code and the details by which `error` travels to an authorized peer."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), _Code.ABORTED)
    fields = {name: str(getattr(error, name)) for name in _FIELDS}
    return code, json.dumps(fields, ensure_ascii=True, separators=(",", ":"))


def error_of(problem: grpc.RpcError, *, thing: str) -> EmbrasureError:
    """Return what `problem`, which a call ended with, means on this side.

    thing: what was asked, for the sentence. A peer's text is shown, never believed: an unknown form
    becomes Unavailable (try again) or Refused.
    """
    if not isinstance(problem, grpc.aio.AioRpcError):
        return Unavailable(thing, expected="an answer", got=problem)
    code, details = problem.code(), problem.details() or ""
    kind = next((kind for kind, known in _CODES if known == code), None)
    fields = _read(details)
    if kind is not None and fields is not None:
        return kind(
            fields["thing"],
            expected=shown(fields["expected"]),
            got=fields["got"],
            untouched=shown(fields["untouched"]),
            hint=shown(fields["hint"], 400),
            reason=_word(fields["reason"]),
        )
    if code in _AGAIN:
        return Unavailable(thing, expected="an answer", got=f"{code.name}: {details}")
    if code == _Code.PERMISSION_DENIED:
        return Denied(thing, expected="to be let in", got=details or "denied")
    return Refused(thing, expected="an answer", got=f"{code.name}: {details}")


def _read(details: str) -> dict[str, str] | None:
    """Return the fields in `details`, or None for anything but our own form."""
    if len(details) > MAX_DETAILS or not details.startswith("{"):
        return None
    try:
        found = json.loads(details)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != set(_FIELDS):
        return None
    if not all(isinstance(value, str) for value in found.values()):
        return None
    return found


def _word(text: str) -> str:
    """Return a peer's reason word when it is one."""
    return text if re.fullmatch(r"[a-z][a-z0-9-]{0,39}", text) else "unknown"
