"""Where nodes, mirrors and letterboxes are dialled: plain rows that carry no right.

Whoever answers at an address must still show the name that was dialled, and what it is sent
verifies itself.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from embrasure import limits
from embrasure.errors import Misuse
from embrasure.net.identity import check_name
from embrasure.trust import layout
from embrasure.wire import admin_pb2 as wire
from gateway import tables
from gateway.address import check_address
from gateway.audit import Journal
from gateway.database import Database

KINDS = ("node", "mirror", "letterbox")


def set_address(
    database: Database, journal: Journal, request: wire.AddressRequest, *, person: str
) -> dict[str, object]:
    """Return the row as it is now; an empty address takes it away. Raises Misuse."""
    if request.kind not in KINDS:
        raise Misuse("kind", expected=", ".join(KINDS), got=request.kind)
    layout.check_env(request.env)
    check_name(request.name)
    if request.kind == "node" and not layout.NODE_ID.fullmatch(request.name):
        raise Misuse("node", expected="a node id, as `node init` printed it", got=request.name)
    row = {
        "kind": request.kind,
        "name": request.name,
        "env": request.env,
        "address": check_address(request.address) if request.address else "",
        "post_address": check_address(request.post_address) if request.post_address else "",
    }
    key = f"{request.env}:{request.kind}/{request.name}"
    known = tables.addresses.c
    with (
        journal.act("set-address", key, actor=f"operator/{person}", address=row["address"]),
        database.write() as connection,
    ):
        same = (known.kind == request.kind) & (known.name == request.name)
        # Another environment's row under the same name is for its own people to change.
        same &= known.env == request.env
        connection.execute(delete(tables.addresses).where(same))
        if request.address:
            connection.execute(insert(tables.addresses).values(**row))
    return dict(row)


def addresses_of(database: Database, env: str) -> dict[tuple[str, str], str]:
    """Return (kind, name) -> address of one environment."""
    row = tables.addresses.c
    query = select(tables.addresses).where(row.env == env).limit(limits.ADDRESSES)
    return {(found.kind, found.name): found.address for found in database.all(query)}
