"""Takes the security team's answer to this node's statement: first floors, and its certificate.

Without it a fresh node could be shown an older repository as the newest there is.
"""

from __future__ import annotations

from datetime import UTC, timedelta

import msgspec

from embrasure import limits
from embrasure.clock import Clock, read_time
from embrasure.errors import NotFound, Refused
from embrasure.fs import Folder, read_file
from embrasure.net.certificates import load_der, pem_of
from embrasure.trust import dsse, layout
from embrasure.trust.client import TrustClient
from embrasure.trust.directory import Enrolled, parse_enrolled
from embrasure.trust.documents import write
from embrasure.trust.floors import Floors
from embrasure.trust.view import View
from node.ground import FloorKeeper
from node.identity import Identity
from node.paths import Paths


def is_enrolled(paths: Paths) -> bool:
    """Return whether this node took its answer already."""
    return paths.taken.exists()


def may_have_answer(paths: Paths) -> bool:
    """Return whether this node took an answer, or its owner put one there."""
    return is_enrolled(paths) or paths.enrolled.exists()


def accept_enrolment(
    paths: Paths,
    identity: Identity,
    client: TrustClient,
    view: View,
    floors: FloorKeeper,
    *,
    clock: Clock,
) -> bool:
    """Return whether this node is enrolled; its floors, chain and TLS bundle are then taken.

    The answer must carry a signature of `fleet-<env>` as `view` verified it, and be about this very
    node and epoch. Raises Refused (`bad-signature`, `identity`, `pem`,
    `rollback`).
    """
    if is_enrolled(paths):
        return True
    try:
        raw = read_file(paths.enrolled, limit=limits.ENROLMENT_BYTES)
    except NotFound:
        return False
    keys = client.keys(view, layout.fleet_role(identity.env))
    payload, _ = dsse.unseal("enrolled", raw, keys, limit=limits.ENROLMENT_BYTES)
    answer = parse_enrolled(payload)
    check_answer(answer, identity, view)
    take_enrolment(paths, raw, answer, client, floors, clock=clock)
    return True


def take_enrolment(
    paths: Paths,
    raw: bytes,
    answer: Enrolled,
    client: TrustClient,
    floors: FloorKeeper,
    *,
    clock: Clock,
) -> None:
    """This node is enrolled by `answer`, which is verified; `raw` is its envelope.

    Raises Refused (`pem`) before anything of it counts.
    """
    chain = b"".join(pem_of(load_der(der, what="enrolment answer")) for der in answer.chain)
    _take_floors(answer, client, floors, clock=clock)
    with Folder.open(paths.state) as state:
        state.replace(paths.tls_chain.name, chain, mode=0o644)
        state.replace(paths.tls_bundle.name, write(answer.tls), mode=0o644)
        # Last: until this is there, everything above is done again.
        state.replace(paths.taken.name, raw)


def check_answer(answer: Enrolled, identity: Identity, view: View) -> None:
    """Return only when the answer is about this node, and the repository not older than it."""
    mine = (identity.root_id, identity.env, identity.node, identity.epoch)
    if (answer.root, answer.env, answer.node, answer.epoch) != mine:
        raise Refused(
            "enrolment answer", expected=f"one for {identity.node}", got=answer.node,
            reason="identity", hint="take the answer to this node's own statement.json",
        )  # fmt: skip
    for role, least in versions_of(answer).items():
        found = view.role(role)
        if found is None or found.version < least:
            raise Refused(
                f"role {role}",
                expected=f"version {least} or later, as the enrolment answer says",
                got=found.version if found else "none",
                hint="the source is older than this node's enrolment; try another one",
                reason="rollback",
            )


def versions_of(answer: Enrolled) -> dict[str, int]:
    """Return role -> version below which the answer lets this node believe nothing."""
    floors = answer.floors
    return {
        layout.ROOT: floors.root,
        layout.TARGETS: floors.targets,
        layout.fleet_role(answer.env): floors.fleet,
        layout.REVOCATIONS: floors.revocations,
    }


def _take_floors(
    answer: Enrolled, client: TrustClient, floors: FloorKeeper, *, clock: Clock
) -> None:
    # One key that is stolen, or a clock that once jumped, must not make everything expired here.
    cap = clock() + timedelta(seconds=limits.SKEW_SECONDS)
    at = int(min(read_time(answer.floors.time).astimezone(UTC), cap).timestamp())
    client.raise_floors(versions=versions_of(answer), time=at)

    def raised(before: Floors) -> Floors:
        after = msgspec.structs.replace(before, time=max(before.time, at))
        for app, seq in answer.floors.seq.items():
            floor = after.app(app)
            if seq > floor.seen_seq:
                changed = msgspec.structs.replace(floor, seen_seq=seq, seen_plan="")
                after = after.with_app(app, changed)
        return after

    floors.change(raised)
