"""A node's metadata door: what it makes of trust files, whoever brought them.

They never start an install. Denials, the lifting of them, and whom TLS believes count at once.
"""

from __future__ import annotations

import threading

import msgspec

from embrasure.errors import Denied, EmbrasureError, NotFound, Unavailable
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.denied import after_reset, merge
from embrasure.trust.directory import parse_tls_bundle
from embrasure.trust.door import Door, Taken
from embrasure.trust.floors import Floors
from embrasure.trust.offline import Offline
from embrasure.trust.policy import Policy, Revocations, parse_policy, parse_revocations
from embrasure.trust.source import Source
from node import believed
from node.enrolment import is_enrolled
from node.ground import FloorKeeper
from node.identity import Identity
from node.paths import Paths


class Trusting:
    """The offline roles of one node. One delivery at a time; an install may run beside it."""

    def __init__(
        self, paths: Paths, identity: Identity, client: TrustClient, floors: FloorKeeper
    ) -> None:
        """What a crash kept from counting counts now."""
        self._paths, self._identity, self._floors = paths, identity, floors
        self._client = client
        self.door = Door(client, env=identity.env, node=identity.node)
        self._turn = threading.Lock()
        if is_enrolled(paths):
            self._obey(self.door.newest())

    def take(self, source: Source) -> Taken:
        """Return what `source` had that is newer; it counts from now on.

        Raises Denied (`not-enrolled`): without the first floors of the answer an old file would
        count as new; Unavailable (`busy`); Refused.
        """
        if not is_enrolled(self._paths):
            raise Denied(
                "node",
                expected="one that has taken its enrolment answer",
                got="one that has verified nothing yet",
                hint="embrasure node enrol ANSWER, then embrasure node run",
                reason="not-enrolled",
            )
        if not self._turn.acquire(blocking=False):
            raise Unavailable("door", expected="one delivery", got="another", reason="busy",
                              hint="try again in a moment")  # fmt: skip
        try:
            found = self.door.take(source)
            if found.roles:
                self._obey(self.door.newest())
            return found
        finally:
            self._turn.release()

    def newer_revocations(self, version: int) -> tuple[Revocations, int] | None:
        """Return the revocations and their version when the door brought newer ones."""
        if not (self.door.folder / f"{layout.REVOCATIONS}.json").exists():
            return None
        held = self.door.newest()
        found = self._revocations(held)
        if found is None or held.version(layout.REVOCATIONS) <= version:
            return None
        return found, held.version(layout.REVOCATIONS)

    def policy(self) -> Policy | None:
        """Return the newest policy that was verified here, whoever brought it; None without one.

        However old it is: what it denies stays denied.
        """
        return self._policy(self.door.newest())

    def _obey(self, held: Offline) -> None:
        """Floors and the files of the network side say what the newest offline roles say."""
        policy, revocations = self._policy(held), self._revocations(held)
        reset = policy.denials_reset_through if policy is not None else 0
        holders = held.holders(layout.REVOCATIONS) or None

        def merged(floors: Floors) -> Floors:
            union = after_reset(floors.union, reset_through=reset, holders=holders)
            if revocations is not None:
                version = held.version(layout.REVOCATIONS)
                union = merge(
                    union, revocations, version=version, reset_through=reset, holders=holders
                )
            return msgspec.structs.replace(floors, union=union)

        union = self._floors.change(merged).union
        root, env = self._client.root_id, self._identity.env
        if policy is not None or revocations is not None:
            # Denials first: a new bundle never stands without what was said against it.
            believed.keep_denials(self._paths, policy, union, root=root, env=env)
        raw = self._document(held, layout.fleet_role(env), layout.tls_path(env))
        if raw is not None:
            believed.keep_bundle(self._paths, parse_tls_bundle(raw))

    def _policy(self, held: Offline) -> Policy | None:
        env = self._identity.env
        raw = self._document(held, layout.fleet_role(env), layout.policy_path(env))
        return None if raw is None else parse_policy(raw)

    def _revocations(self, held: Offline) -> Revocations | None:
        path = layout.revocations_path(self._identity.env)
        raw = self._document(held, layout.REVOCATIONS, path)
        return None if raw is None else parse_revocations(raw)

    def _document(self, held: Offline, role: str, path: str) -> bytes | None:
        try:
            return self.door.document(held, role, path)
        except NotFound:
            return None


def is_behind(problem: EmbrasureError, door: Door) -> bool:
    """Return whether a source was refused only because the door has brought newer trust files."""
    return problem.reason in ("rollback", "threshold") and door.is_ahead()
