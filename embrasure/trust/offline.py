"""The offline roles by themselves: root, targets, fleet, revocations, without any online signature.

Each verifies by its delegator alone, so who brings it proves nothing and needs no right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Metadata, Root, Signed, Targets

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.canonical import check_depth
from embrasure.trust.view import Target
from embrasure.trust.workflow.updater import BEGINNING, OUTSIDE, check_keys, explained
from embrasure.trust.workflow.verified import delegations, listed_targets
from embrasure.trust.workflow.versions import Keys, plain
from embrasure.trust.workflow.vouching import TrustedSet, vouched

Stored = Callable[[str, int], Iterable[bytes]]  # role, version (of root) -> files that may be it


@dataclass(frozen=True, slots=True)
class Offline:
    """Offline roles that verified, root first: what they say, and their files byte for byte."""

    signed: Mapping[str, Signed]
    files: Mapping[str, bytes]

    @property
    def root(self) -> Root:
        """The newest root."""
        found = self.signed[layout.ROOT]
        if not isinstance(found, Root):
            raise _refused(layout.ROOT, "root", found.type)
        return found

    @property
    def targets(self) -> Targets | None:
        """The newest targets, None before any was seen."""
        found = self.signed.get(layout.TARGETS)
        return found if isinstance(found, Targets) else None

    def version(self, role: str) -> int:
        """Return the version of `role`, 0 for none."""
        found = self.signed.get(role)
        return 0 if found is None else found.version

    def listed(self, role: str) -> dict[str, Target]:
        """Return the documents that `role` lists inside the paths delegated to it."""
        found = self.signed.get(role)
        return {} if found is None else listed_targets(found, delegations(self.targets).get(role))

    def holders(self, role: str) -> frozenset[str]:
        """Return the ids of the keys that may sign `role` now."""
        named = delegations(self.targets).get(role)
        return frozenset() if named is None else frozenset(named.keyids)

    def threshold(self, role: str) -> int:
        """Return how many keys must sign `role`, 0 for a role that nobody delegates."""
        named = delegations(self.targets).get(role)
        return 0 if named is None else named.threshold

    def keys(self) -> Keys:
        """Return the key ids of each role that root and targets delegate, as floors hold them."""
        delegated = {**self.root.roles, **delegations(self.targets)}
        return {
            plain(name): frozenset(plain(keyid) for keyid in role.keyids)
            for name, role in delegated.items()
        }


def is_offline(role: str, env: str = "") -> bool:
    """Return whether `role` is one that the security team signs offline.

    env: only the fleet role of this environment counts; empty: of any
    """
    fleet = role == layout.fleet_role(env) if env else role.startswith("fleet-")
    return fleet or role in (layout.ROOT, layout.TARGETS, layout.REVOCATIONS)


def newest(anchor: bytes, stored: Stored, *, env: str) -> Offline:
    """Return the newest of what is stored that still verifies, from the anchor on.

    What its delegator no longer vouches for counts as none. Expiry is not looked at: whoever
    decides something does that.
    """
    roots = TrustedSet(anchor)
    roots.reference_time = BEGINNING
    files: dict[str, bytes] = {layout.ROOT: anchor}
    while (raw := _step(roots, stored(layout.ROOT, roots.root.version + 1))) is not None:
        files[layout.ROOT] = raw
    signed: dict[str, Signed] = {layout.ROOT: roots.root}
    _best(layout.TARGETS, roots.root, stored, signed, files)
    targets = signed.get(layout.TARGETS)
    if isinstance(targets, Targets):
        for role in delegations(targets):
            if is_offline(role, env):
                _best(role, targets, stored, signed, files)
    return Offline(signed, files)


def _step(roots: TrustedSet, found: Iterable[bytes]) -> bytes | None:
    for raw in found:
        try:
            roots.update_root(raw)
        except OUTSIDE:
            continue
        return raw
    return None


def _best(
    role: str,
    delegator: Root | Targets,
    stored: Stored,
    signed: dict[str, Signed],
    files: dict[str, bytes],
) -> None:
    for raw in stored(role, 0):
        try:
            found = verify_role(raw, role, delegator)
        except Refused:
            continue
        if role not in signed or found.version > signed[role].version:
            signed[role], files[role] = found, raw


def verify_role(raw: bytes, role: str, delegator: Root | Targets) -> Targets:
    """Return the role in `raw` when `delegator` vouches for it; raises Refused.

    Steps: 1 size and depth, 2 its type, 3 sound delegation, 4 the threshold of signatures, 5 sound
    delegations of its own. Version and expiry are the caller's.
    """
    # 1.
    most = limits.TARGETS_BYTES if role == layout.TARGETS else limits.DELEGATED_BYTES
    if len(raw) > most:
        raise Refused(role, expected=f"at most {most} bytes", got=len(raw), reason="limit")
    check_depth(raw, role)
    try:
        # 2.
        metadata = Metadata[Targets].from_bytes(raw)
        if not isinstance(metadata.signed, Targets):
            raise _refused(role, Targets.type, metadata.signed.type)
        # 3.
        check_delegation(role, delegator)
        # 4.
        vouched(raw, metadata, role, delegator)
    except OUTSIDE as problem:
        raise explained(problem, role) from problem
    # 5.
    for name in delegations(metadata.signed):
        check_delegation(name, metadata.signed)
    return metadata.signed


def check_delegation(role: str, delegator: Root | Targets) -> None:
    """Return only when `delegator` names `role` soundly: 1 <= threshold <= distinct keys."""
    if isinstance(delegator, Root):
        check_keys(role, delegator.roles[role], delegator.keys)
        return
    named = delegations(delegator).get(role)
    if named is None or delegator.delegations is None:
        raise _refused(role, "a role that targets delegate", "no delegation")
    check_keys(role, named, delegator.delegations.keys)


def next_root(steps: TrustedSet, raw: bytes) -> None:
    """`steps` trusts the root in `raw`, the very next version; raises Refused."""
    if len(raw) > limits.ROOT_BYTES:
        raise Refused(
            layout.ROOT, expected=f"{limits.ROOT_BYTES} bytes", got="more", reason="limit"
        )
    check_depth(raw, layout.ROOT)
    try:
        new = steps.update_root(raw)
    except OUTSIDE as problem:
        raise explained(problem, layout.ROOT) from problem
    for name in new.roles:
        check_delegation(name, new)


def check_fresh(signed: Signed, role: str, at: datetime) -> None:
    """Return only when the role has not expired at `at`; raises Refused (`expired`)."""
    if signed.is_expired(at):
        raise Refused(
            role, expected=f"metadata that has not expired at {at:%Y-%m-%d}",
            got=f"expired on {signed.expires:%Y-%m-%d}", reason="expired",
        )  # fmt: skip


def check_newer(role: str, version: int, *, floor: int) -> None:
    """Return only when `version` is above every one that counts here; raises Refused."""
    if version < floor:
        raise Refused(
            f"{role} version",
            expected=f"{floor} or later",
            got=version,
            untouched="the newer one that is held",
            reason="rollback",
        )


def _refused(role: str, expected: str, got: object) -> Refused:
    return Refused(role, expected=expected, got=got, reason="bad-metadata")
