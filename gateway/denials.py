"""What every environment denies, as far as this gateway ever verified it: the union, on disk.

A later version of the revocations lifts nothing here, as on nodes and mirrors: one stolen on-call
key, and anybody who may submit files, would else let a stolen operator's key back in. Only policy
(`denials_reset_through`) and `targets` (an on-call key is gone) lift.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from securesystemslib.signer import Key

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused
from embrasure.fs import Folder
from embrasure.trust import layout
from embrasure.trust.denied import NOTHING, DeniedSets, after_reset, merge, sets_of
from embrasure.trust.documents import Count, Document
from embrasure.trust.floors import PairStore, Union
from embrasure.trust.load import Targets
from embrasure.trust.policy import Denied, Policy, parse_policy, parse_revocations
from embrasure.trust.source import Source
from embrasure.trust.view import View

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Verified(Targets, Protocol):
    """What reads verified documents, and knows who may sign a role: `TrustClient`."""

    def keys(self, view: View, role: str) -> Mapping[str, Key]:
        """Return the keys that may sign `role`, none for a role that is not delegated."""
        ...


class Held(Document, frozen=True, kw_only=True):
    """What one environment denies. lasting, reset: of the newest policy that could be read;
    newest: of the newest revocations alone, which count even when the union is full.
    """

    lasting: Denied = NOTHING
    reset: Count = 0
    union: Union = msgspec.field(default_factory=Union)
    newest: Union = msgspec.field(default_factory=Union)

    def sets(self) -> DeniedSets:
        """Return all of it together."""
        return sets_of(self.lasting, self.union).joined(sets_of(NOTHING, self.newest))


class Denials:
    """The denials of all environments of one gateway; any thread may ask.

    What cannot be read takes nothing away: what held before it stays, also over a restart.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with what `folder` holds; raises Refused (`no-trust`) when that is damaged."""
        self._folder = folder
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        for env in self._known():
            self._held[env] = self._load(env)

    def of(self, env: str) -> DeniedSets:
        """Return what policy and revocations of `env` deny together."""
        return self._held.get(env, Held()).sets()

    def union(self, env: str) -> Union:
        """Return the union of its revocations, as a node of `env` keeps it."""
        return self._held.get(env, Held()).union

    def everywhere(self) -> DeniedSets:
        """Return what any environment denies."""
        found = sets_of(NOTHING, Union())
        for held in list(self._held.values()):
            found = found.joined(held.sets())
        return found

    def take(self, targets: Verified, view: View, source: Source) -> None:
        """What the verified `view` denies counts from now on, and is on disk for the next start.

        An environment that `targets` does not delegate any more denies nothing; one whose files are
        damaged, expired or orphaned denies what it did.
        """
        fleets = {role.removeprefix("fleet-") for role in view.roles if role.startswith("fleet-")}
        with self._lock:
            gone = {
                env
                for env in self._known()
                if env not in fleets and not targets.keys(view, layout.fleet_role(env))
            }
            for env in sorted((fleets | set(self._known())) - gone):
                before = self._held.get(env) or self._load(env)
                after = _after(before, targets, view, source, env)
                if after != before:
                    PairStore(self._folder / env, Held).save(after)
                self._held[env] = after
            for env in gone:
                self._held.pop(env, None)

    def _known(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(layout.check_env(one.name) for one in self._folder.iterdir())

    def _load(self, env: str) -> Held:
        store = PairStore(self._folder / env, Held)
        if not store.exists():
            Folder.open(self._folder, create=True, mode=0o700).close()
            store.create(Held())
        try:
            return store.load()
        except Refused as problem:
            raise Refused(
                f"denials of {env}",
                expected="what this gateway wrote",
                got=problem.got,
                untouched="nothing is served: a stolen key might count again",
                hint=f"a backup of {self._folder / env}; or remove that folder, and what only older"
                " revocations denied must be denied again",
                reason="no-trust",
            ) from problem


def _after(held: Held, targets: Targets, view: View, source: Source, env: str) -> Held:
    """The policy comes first, for only it and `targets` reset."""
    policy = _read(
        targets, view, source, layout.fleet_role(env), layout.policy_path(env),
        limits.POLICY_BYTES, lambda raw: _mine(parse_policy(raw), view, env),
    )  # fmt: skip
    if policy is not None:
        held = msgspec.structs.replace(
            held, lasting=policy.denied, reset=policy.denials_reset_through
        )
    role = view.role(layout.REVOCATIONS)
    holders = None if role is None else role.keys
    revoked = _read(
        targets, view, source, layout.REVOCATIONS, layout.revocations_path(env),
        limits.REVOCATIONS_BYTES, parse_revocations,
    )  # fmt: skip
    if role is None or revoked is None:
        union, newest = (
            after_reset(one, reset_through=held.reset, holders=holders)
            for one in (held.union, held.newest)
        )
        return msgspec.structs.replace(held, union=union, newest=newest)

    def merged(union: Union) -> Union:
        return merge(
            union, revoked, version=role.version, reset_through=held.reset, holders=holders
        )

    return msgspec.structs.replace(held, union=merged(held.union), newest=merged(Union()))


def _mine(policy: Policy, view: View, env: str) -> Policy:
    if (policy.root, policy.env) != (view.root_id, env):
        raise Refused("policy", expected=f"one of {env}", got=policy.env, reason="not-mine")
    return policy


def _read(
    targets: Targets, view: View, source: Source, role: str, path: str, limit: int,
    reader: Callable[[bytes], T],
) -> T | None:  # fmt: skip
    """Return a document, None when it is absent or wrong."""
    try:
        return reader(targets.target(view, role, path, source, limit=limit))
    except NotFound as problem:
        if view.target(role, path) is None:
            return None  # not listed: nothing is wrong
        LOG.warning("%s is missing, what it denied before still counts: %s", path, problem)
    except EmbrasureError as problem:
        LOG.warning("%s cannot be used, what it denied before still counts: %s", path, problem)
    return None
