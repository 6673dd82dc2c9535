"""The manifest: every path, mode, length and digest of one release; what, never where.

The same bytes go from staging to prod, so it names neither environment nor fleet.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.bundle.paths import check_path, check_tree
from embrasure.errors import Refused
from embrasure.trust.documents import (
    AppName,
    Count,
    Digest,
    Document,
    Name,
    Positive,
    check_unused,
    read,
)

Argument = Annotated[str, Meta(min_length=1, max_length=limits.ARGV_ITEM_BYTES)]
Argv = Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=limits.ARGV_ITEMS)]
PortName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Milliseconds = Annotated[int, Meta(ge=10, le=3_600_000)]
EnvironmentName = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]


class Entry(Document, frozen=True, kw_only=True):
    """One path of the release. `target` is where a link points, else null."""

    path: str
    kind: Literal["file", "link", "dir"]
    mode: Annotated[str, Meta(pattern=r"^[0-7]{4}$")]
    length: Count
    sha256: Digest
    target: str | None


class Run(Document, frozen=True, kw_only=True):
    """How the app starts: an argument list, never a shell line; ports are names."""

    argv: Argv
    env: Annotated[
        dict[EnvironmentName, Annotated[str, Meta(max_length=limits.SETTING_BYTES)]],
        Meta(max_length=limits.SETTINGS),
    ]
    ports: Annotated[tuple[PortName, ...], Meta(max_length=limits.PORTS)]


class Hook(Document, frozen=True, kw_only=True):
    """A command of the release at one point of its install."""

    point: Literal["check", "prepare", "migrate", "finish", "revert"]
    argv: Argv
    timeout_s: Annotated[int, Meta(ge=1, le=limits.HOOK_SECONDS)]


class _Probe(Document, frozen=True, kw_only=True):
    interval_ms: Milliseconds
    timeout_ms: Milliseconds
    start_s: Annotated[int, Meta(ge=1, le=3600)]
    passes: Annotated[int, Meta(ge=1, le=100)]


class HttpProbe(_Probe, frozen=True, kw_only=True, tag="http", tag_field="kind"):
    """GET `path` on a named port answers `status`."""

    port: PortName
    path: Annotated[str, Meta(pattern=r"^/[\x21-\x7e]{0,1023}$")]
    status: Annotated[int, Meta(ge=100, le=599)]


class TcpProbe(_Probe, frozen=True, kw_only=True, tag="tcp", tag_field="kind"):
    """A named port accepts a connection."""

    port: PortName


class GrpcProbe(_Probe, frozen=True, kw_only=True, tag="grpc", tag_field="kind"):
    """grpc.health.v1 on a named port says SERVING, of `service` ("" for the whole server)."""

    port: PortName
    service: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,120}$")]


class FileAgeProbe(_Probe, frozen=True, kw_only=True, tag="file-age", tag_field="kind"):
    """A file of the app's data was written since its start, and at most `max_age_s` ago."""

    path: Annotated[str, Meta(min_length=1, max_length=limits.PATH_BYTES)]
    max_age_s: Annotated[int, Meta(ge=1, le=86_400)]


class ExecProbe(_Probe, frozen=True, kw_only=True, tag="exec", tag_field="kind"):
    """A command of the release ends with 0."""

    argv: Argv


class SystemdProbe(_Probe, frozen=True, kw_only=True, tag="systemd", tag_field="kind"):
    """A unit of systemd that the node's owner gave this name was started with the release, is
    active (for `Type=notify`: said READY), and goes on without a restart.
    """

    unit: PortName


Probe = HttpProbe | TcpProbe | GrpcProbe | FileAgeProbe | ExecProbe | SystemdProbe


class Require(Document, frozen=True, kw_only=True):
    """Another app committed on the same node first."""

    app: AppName
    min_seq: Positive


class SecretName(Document, frozen=True, kw_only=True):
    """A secret by name, never by value."""

    name: Name
    min_version: Positive
    mode: Annotated[str, Meta(pattern=r"^0[0-7]{3}$")]


class Origin(Document, frozen=True, kw_only=True):
    """Who built it: shown to approvers, never trusted."""

    builder: Annotated[str, Meta(max_length=200)]
    revision: Annotated[str, Meta(max_length=200)]
    time: Annotated[str, Meta(max_length=40)]


class Manifest(Document, frozen=True, kw_only=True):
    """One release of one app."""

    v: Literal[1]
    type: Literal["manifest"]
    app: AppName
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+_-]{1,64}$")]
    files: Annotated[tuple[Entry, ...], Meta(max_length=limits.FILES)]
    run: Run
    hooks: Annotated[tuple[Hook, ...], Meta(max_length=limits.HOOKS)]
    probes: Annotated[tuple[Probe, ...], Meta(min_length=1, max_length=limits.PROBES)]
    confirm: Literal["probes", "mirror"]
    requires: Annotated[tuple[Require, ...], Meta(max_length=limits.REQUIRES)]
    secrets: Annotated[tuple[SecretName, ...], Meta(max_length=limits.SECRETS)]
    irreversible: bool
    origin: Origin

    def blobs(self) -> dict[str, int]:
        """Return digest -> length of each distinct file content, in the manifest's order."""
        return {entry.sha256: entry.length for entry in self.files if entry.kind == "file"}

    def total_bytes(self) -> int:
        """Return the length of all files together."""
        return sum(entry.length for entry in self.files if entry.kind == "file")


def parse_manifest(raw: bytes) -> Manifest:
    """Return the manifest in `raw`; raises Refused (reasons of docs/formats.md), NotSupported."""
    manifest = read(raw, Manifest, limit=limits.MANIFEST_BYTES, document="manifest")
    check_tree(manifest.files)
    check_commands(manifest)
    check_secrets(manifest.secrets)
    check_migration(manifest)
    check_unused(
        "manifest",
        requires=manifest.requires,
    )
    return manifest


def check_migration(manifest: Manifest) -> None:
    """Return only when it is said what becomes of data that `migrate` has changed.

    The hook `revert` undoes it, or it is `irreversible`, which approvers see; raises Refused
    (`migration`).
    """
    points = {hook.point for hook in manifest.hooks}
    ways = ("revert" in points) + manifest.irreversible
    if "migrate" in points and ways != 1:
        raise Refused(
            "manifest", expected="a hook `revert` beside `migrate`, or `irreversible = true`",
            got="both" if ways else "neither", reason="migration",
            hint="without one of them a failed release would leave the old one with changed data",
        )  # fmt: skip
    if manifest.irreversible and "migrate" not in points:
        raise Refused(
            "manifest", expected="a hook `migrate`, after which nothing leads back",
            got="`irreversible` alone", reason="migration",
            hint="what the app itself migrates when it starts, nobody can see begin",
        )  # fmt: skip


OWNER_ONLY = "0400"


def check_secrets(secrets: tuple[SecretName, ...]) -> None:
    """Return only when each secret is named once, sorted, for the app's own user alone.

    Raises Refused (`duplicate`, `bad-mode`).
    """
    names = [one.name for one in secrets]
    if names != sorted(set(names)):
        raise Refused("manifest", expected="each secret once, sorted", got=", ".join(names),
                      reason="duplicate")  # fmt: skip
    if any(one.mode != OWNER_ONLY for one in secrets):
        raise Refused("manifest", expected=f"secrets of mode {OWNER_ONLY}", got="another mode",
                      reason="bad-mode")  # fmt: skip


def is_listed(manifest: Manifest, path: str) -> bool:
    """Return whether `path` is an executable file of the release."""
    return any(e.path == path and e.kind == "file" and e.mode == "0555" for e in manifest.files)


_INTERPRETER = re.compile(r"[a-z][a-z0-9.+-]{0,31}")


def check_commands(manifest: Manifest) -> None:
    """Return only when each command starts with an executable file of the release, or with the
    plain name of an interpreter (which the node's owner allows or not); raises Refused.
    """
    commands = [("run", manifest.run.argv)]
    commands += [(f"hook {hook.point}", hook.argv) for hook in manifest.hooks]
    commands += [("probe", p.argv) for p in manifest.probes if isinstance(p, ExecProbe)]
    for where, argv in commands:
        if not is_listed(manifest, argv[0]) and not _INTERPRETER.fullmatch(argv[0]):
            raise Refused(
                f"manifest {where}",
                expected="an executable file of the release, or an interpreter's name",
                got=argv[0],
                reason="not-declared",
            )
    if len({hook.point for hook in manifest.hooks}) != len(manifest.hooks):
        raise Refused("manifest", expected="one hook a point", got="two", reason="duplicate")
    for probe in manifest.probes:
        if isinstance(probe, FileAgeProbe):
            # The same rules as below code/: relative, visible, no way up.
            check_path(f"code/{probe.path}")
        elif isinstance(probe, ExecProbe | SystemdProbe):
            continue  # a command was looked at above; which unit it is, the node's owner says
        elif probe.port not in manifest.run.ports:
            raise Refused(
                "manifest probe", expected="a port of `run`", got=probe.port, reason="not-declared"
            )
