"""An operator's folder, and what the gateway answers him: what ends when, what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from embrasure import findings as look
from embrasure import fs
from embrasure.advice import Where, command_of, verb
from embrasure.clock import read_time
from embrasure.errors import EmbrasureError, Refused
from embrasure.expiry import WINDOWS, Item, certificate_item
from embrasure.findings import Finding
from embrasure.net.certificates import load_certificates
from gateway.client import AdminClient
from gateway.context import OperatorContext, read_context
from gateway.shown import rows_of

_PEM_BYTES = 65536
_Text = Annotated[str, Meta(max_length=1024)]


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row as a gateway tells it; what is worked out again here is passed over.

    The command above all: a stolen gateway would have operators type what it likes.
    """

    kind: _Text
    what: _Text
    name: _Text
    holder: _Text
    issuer: _Text
    serial: _Text
    not_after: _Text
    life_s: Annotated[int, Meta(ge=0)]
    action: _Text
    place: _Text


def asked(path: Path, timeout_s: float | None) -> list[Item]:
    """Return what the gateway of the context knows of its own and its nodes' certificates."""
    from embrasure.wire import admin_pb2 as wire

    with AdminClient.open(path, timeout_s=timeout_s) as client:
        return rows(client.json("Inventory", wire.Empty()))


def rows(answer: dict[str, object]) -> list[Item]:
    """Return the items of a gateway's answer; raises Refused (`bad-schema`)."""
    return [_item(row) for row in rows_of(answer, "items")]


def _item(row: dict[str, object]) -> Item:
    try:
        found = msgspec.convert(row, _Row, strict=True)
        until = read_time(found.not_after) if found.not_after else None
    except (msgspec.ValidationError, ValueError):
        found, until = None, None
    if found is None or found.kind not in WINDOWS:
        raise Refused("gateway", expected="rows of an inventory", got="else", reason="bad-schema")
    return Item(
        kind=found.kind,
        what=found.what,
        name=found.name,
        holder=found.holder,
        issuer=found.issuer,
        serial=found.serial,
        until=until,
        life_s=found.life_s,
        action=found.action,
        command=command_of(found.kind, found.name),
        place=f"gateway: {found.place}",
    )


def items(folder: Path) -> list[Item]:
    """Return the operator's certificate and the issuer by which he knows the gateway."""
    context = read_context(folder)
    found = []
    for name in (context.file.tls_cert, context.file.admin_issuer):
        file = context.folder / name
        if file.exists():
            cert = load_certificates(fs.read_file(file, limit=_PEM_BYTES), what=file.name)[0]
            found.append(certificate_item(cert, place=file, where=Where(context=folder)))
    return found


def findings(folder: Path, at: datetime) -> list[Finding]:
    """Return what is wrong with an operator's folder; raises Misuse, Denied."""
    context = read_context(folder)
    here = context.folder
    return [
        *look.private([here / context.file.tls_key, *_key_file(context)]),
        *look.unshared([here / "context.toml", here / context.file.anchor]),
        *look.disk(here),
        *_half_made(context),
        *look.reach(context.file.gateway, "gateway", fix=verb("whoami", "--context", folder)),
        *look.ends(lambda: items(folder), at),
    ]


def _key_file(context: OperatorContext) -> list[Path]:
    scheme, _, path = context.file.key.partition(":")
    return [context.folder / path] if scheme == "keyfile" else []


def _half_made(context: OperatorContext) -> Iterator[Finding]:
    login = verb("login", "--context", context.folder)
    for file in _key_file(context):
        if not file.exists():
            yield Finding("half-made", str(file), "is missing", verb("keys", "generate", "--help"))
    if not (context.folder / context.file.tls_cert).exists():
        yield Finding("half-made", context.person, "has no certificate", login)
        return
    try:
        from embrasure.net.credentials import Pair

        Pair(*context.tls())
    except EmbrasureError as problem:
        yield Finding("half-made", context.person, str(problem), login)
