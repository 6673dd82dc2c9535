"""What verified metadata says, as plain values: the input of the install decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Target:
    """Length in bytes and SHA-256 (hex) of one target file."""

    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Role:
    """One verified metadata file.

    signers: ids of the keys whose signatures verified; sha256: of the file's signed bytes.
    """

    name: str
    version: int
    expires: datetime
    threshold: int
    keys: frozenset[str]
    signers: frozenset[str]
    sha256: str
    targets: Mapping[str, Target]


@dataclass(frozen=True, slots=True)
class View:
    """A consistent set of verified roles.

    root_id: SHA-256 of the canonical `signed` part of root version 1, which names the fleet.
    fresh: the timestamp in `roles` was fetched just now, not only read from disk.
    """

    root_id: str
    roles: Mapping[str, Role]
    fresh: bool

    def role(self, name: str) -> Role | None:
        """Return the verified role, or None when the snapshot does not list it."""
        return self.roles.get(name)

    def target(self, role: str, path: str) -> Target | None:
        """Return what `role` says of `path`, or None."""
        found = self.roles.get(role)
        return None if found is None else found.targets.get(path)
