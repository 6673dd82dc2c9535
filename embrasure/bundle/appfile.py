"""`app.toml`: how an app starts, is probed and is named, with defaults. It is never shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embrasure import limits
from embrasure.bundle import manifest as shipped
from embrasure.bundle.manifest import (
    Argv,
    EnvironmentName,
    Hook,
    Manifest,
    Milliseconds,
    Origin,
    PortName,
    Probe,
    Require,
    Run,
    SecretName,
)
from embrasure.config import read_toml
from embrasure.trust.documents import AppName, Name, Positive

APP_FILE = "app.toml"

Text = Annotated[str, Meta(max_length=200)]
Version = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+_-]{1,64}\Z")]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: unknown keys are refused, missing ones have a default or are told."""


class RunTable(_Table, frozen=True, kw_only=True):
    """`[run]`: the argument list, its environment, and the names of its ports."""

    argv: Argv
    env: dict[EnvironmentName, Annotated[str, Meta(max_length=limits.SETTING_BYTES)]] = {}
    ports: tuple[PortName, ...] = ()


class HookTable(_Table, frozen=True, kw_only=True):
    """`[[hooks]]`: a command at one point of the install."""

    point: Literal["check", "prepare", "migrate", "finish", "revert"]
    argv: Argv
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 300


class _ProbeTable(_Table, frozen=True, kw_only=True):
    interval_ms: Milliseconds = 2_000
    timeout_ms: Milliseconds = 3_000
    start_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    passes: Annotated[int, Meta(ge=1, le=100)] = 3


class HttpTable(_ProbeTable, frozen=True, kw_only=True, tag="http", tag_field="kind"):
    """`kind = "http"`: GET `path` on a named port answers `status`."""

    port: PortName
    path: Annotated[str, Meta(pattern=r"^/[\x21-\x7e]{0,1023}\Z")] = "/"
    status: Annotated[int, Meta(ge=100, le=599)] = 200


class TcpTable(_ProbeTable, frozen=True, kw_only=True, tag="tcp", tag_field="kind"):
    """`kind = "tcp"`: a named port accepts a connection."""

    port: PortName


class ExecTable(_ProbeTable, frozen=True, kw_only=True, tag="exec", tag_field="kind"):
    """`kind = "exec"`: a command ends with 0."""

    argv: Argv


class GrpcTable(_ProbeTable, frozen=True, kw_only=True, tag="grpc", tag_field="kind"):
    """`kind = "grpc"`: grpc.health.v1 on a named port says SERVING."""

    port: PortName
    service: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,120}\Z")] = ""


class FileAgeTable(_ProbeTable, frozen=True, kw_only=True, tag="file-age", tag_field="kind"):
    """`kind = "file-age"`: a file of the app's data was written a short time ago."""

    path: Annotated[str, Meta(min_length=1, max_length=limits.PATH_BYTES)]
    max_age_s: Annotated[int, Meta(ge=1, le=86_400)] = 60


class SystemdTable(_ProbeTable, frozen=True, kw_only=True, tag="systemd", tag_field="kind"):
    """`kind = "systemd"`: a unit that the node's owner gave this name is active."""

    unit: PortName


ProbeTable = HttpTable | TcpTable | GrpcTable | FileAgeTable | ExecTable | SystemdTable


class RequireTable(_Table, frozen=True, kw_only=True):
    """`[[requires]]`: another app that is committed on the node first."""

    app: AppName
    min_seq: Positive = 1


class SecretTable(_Table, frozen=True, kw_only=True):
    """`[[secrets]]`: a secret by name."""

    name: Name
    min_version: Positive = 1
    mode: Annotated[str, Meta(pattern=r"^0[0-7]{3}\Z")] = "0400"


class OriginTable(_Table, frozen=True, kw_only=True):
    """`[origin]`: shown to approvers, trusted by nobody. Left empty, builds stay reproducible."""

    builder: Text = ""
    revision: Text = ""
    time: Annotated[str, Meta(max_length=40)] = ""


class AppFile(_Table, frozen=True, kw_only=True):
    """The whole file. The command line may give `app` and `version` instead."""

    run: RunTable
    probes: Annotated[
        tuple[ProbeTable, ...],
        Meta(min_length=1, max_length=limits.PROBES),
    ]
    app: AppName | None = None
    version: Version | None = None
    hooks: tuple[HookTable, ...] = ()
    confirm: Literal["probes", "mirror"] = "probes"
    requires: tuple[RequireTable, ...] = ()
    secrets: tuple[SecretTable, ...] = ()
    irreversible: bool = False
    origin: OriginTable = OriginTable()


def read_appfile(folder: Path) -> AppFile:
    """Return `folder/app.toml`; raises Misuse with the key's path."""
    return read_toml(folder / APP_FILE, AppFile, document="app file", owned=False)


def describe(
    found: AppFile, *, app: str, version: str, files: tuple[shipped.Entry, ...]
) -> Manifest:
    """Return the manifest that the file and the tree make; not yet checked as a whole."""
    return Manifest(
        v=1,
        type="manifest",
        app=app,
        version=version,
        files=files,
        run=Run(argv=found.run.argv, env=dict(found.run.env), ports=found.run.ports),
        hooks=tuple(Hook(point=h.point, argv=h.argv, timeout_s=h.timeout_s) for h in found.hooks),
        probes=tuple(_probe(table) for table in found.probes),
        confirm=found.confirm,
        requires=tuple(Require(app=r.app, min_seq=r.min_seq) for r in found.requires),
        secrets=tuple(
            SecretName(name=s.name, min_version=s.min_version, mode=s.mode)
            for s in sorted(found.secrets, key=lambda one: one.name)
        ),
        irreversible=found.irreversible,
        origin=Origin(
            builder=found.origin.builder, revision=found.origin.revision, time=found.origin.time
        ),
    )


def _probe(table: ProbeTable) -> Probe:
    """Return the probe with the table's fields, which have the same names."""
    found: Probe = msgspec.convert(msgspec.to_builtins(table), Probe)
    return found
