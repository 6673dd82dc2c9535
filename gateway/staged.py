"""What the next publication changes, and the rule that a number never gets a second content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuf.api.metadata import Targets

from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from gateway import metadata as form
from gateway.repository_folder import RepositoryFolder


@dataclass(slots=True)
class Staged:
    """Files by repository path, role -> version, environment -> gate path -> bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    gates: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def add_role(self, raw: bytes, documents: Mapping[str, bytes]) -> None:
        """A signed approval role, and what it lists, by target path; raises Refused."""
        signed = form.read_metadata(raw, Targets, "approval role").signed
        name = role_of(signed, documents)
        self.roles[name] = signed.version
        self.files[layout.metadata_file(name, signed.version)] = raw
        for path, body in documents.items():
            self.files[layout.target_file(path, sha256_hex(body))] = body

    def __bool__(self) -> bool:
        # A new root alone is no role of the snapshot, and still news.
        return bool(self.roles or self.gates or self.files)


def check_numbers(
    staged: Staged, listed: Mapping[str, int], files: dict[str, bytes], disk: RepositoryFolder
) -> None:
    """Return only when no number goes back or gets a second content; raises Refused.

    listed: role -> version as published; files: what will be written, changed here: the same
    content again keeps the published file, whoever has signed it since
    """
    for role, version in staged.roles.items():
        path = layout.metadata_file(role, version)
        if version < listed.get(role, 0):
            raise Refused(role, expected=f"above v{listed[role]}", got=version, reason="rollback")
        if version == listed.get(role) and path in files:
            published = disk.role_file(role, version)
            if not form.same_content(published, files.pop(path), role):
                raise Refused(
                    f"{role} v{version}",
                    expected="the published content",
                    got="another one",
                    reason="equivocation",
                )


def role_of(signed: Targets, documents: Mapping[str, bytes]) -> str:
    """Return the name of an approval role: its metadata does not hold it, its plan's path does."""
    for path in signed.targets:
        env, _, rest = path.partition("/")
        app, _, name = rest.partition("/")
        if name == "plan.json" and path in documents:
            return layout.app_role(layout.check_env(env), layout.check_app(app))
    raise Refused("approval role", expected="a plan", got="none", reason="bad-schema")
