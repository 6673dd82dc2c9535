"""What the node's owner says: who this node is, where its servers are, which apps may run here."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from embrasure import limits
from embrasure.config import read_toml
from embrasure.descriptor import explaining
from embrasure.errors import Denied, Misuse, NotFound
from embrasure.trust.documents import AppName, EnvName, NodeId
from node.paths import Paths
from node.users import NET
from node.windows import Windows

MEND = "embrasure node mend; or put it back from a backup; then start the node again"
Address = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}$")]
ServerName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Domain = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Meta(ge=1, le=65535)]
PortName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Interpreter = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9.+-]{0,31}$")]
UserName = Annotated[str, Meta(pattern=r"^[a-z0-9_][a-z0-9_-]{0,31}$")]
# Neither an option nor a pattern, and none of our own: the node would stop itself.
UnitName = Annotated[
    str, Meta(pattern=r"^(?!embrasure-)[A-Za-z0-9][A-Za-z0-9:_.@-]{0,199}\.service\Z")
]
FullPath = Annotated[str, Meta(pattern=r"^/[^\x00-\x1f]{1,1023}$")]


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mirror or a letterbox, by the name in its certificate."""

    name: ServerName
    address: Address


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`node.toml`. door: where a push node takes trust files (the metadata door); poll_s: longest
    time between two looks at the mirror; windows: when apps may be changed that say nothing else;
    production: below `/` it is always, elsewhere it can be asked for; fetch_user: whom the network
    side runs as there; sandbox: where commands of a release run; fetch_s: how long one release may
    be fetched, build_s: how long it may be built; confirm_s: how long a new release waits for the
    word that lets it stay.
    """

    id: NodeId
    env: EnvName
    mode: Literal["push", "pull"]
    domain: Domain
    listen: Address = "127.0.0.1:0"
    door: Address = "127.0.0.1:0"
    mirrors: tuple[Server, ...] = ()
    letterbox: Server | None = None
    poll_s: Annotated[int, Meta(ge=1, le=86400)] = 60
    windows: Windows = ()
    production: bool = False
    fetch_user: UserName = NET
    sandbox: Literal["auto", "bubblewrap", "systemd-run", "none"] = "auto"
    fetch_s: Annotated[int, Meta(ge=60, le=limits.FETCH_MOST_SECONDS)] = limits.FETCH_SECONDS
    build_s: Annotated[int, Meta(ge=1, le=limits.BUILD_MOST_SECONDS)] = limits.BUILD_SECONDS
    confirm_s: Annotated[int, Meta(ge=1, le=limits.CONFIRM_LONGEST_SECONDS)] = (
        limits.CONFIRM_SECONDS
    )


class AppConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`apps.d/<app>.toml`: numbers for the ports that a manifest names, interpreters it may use.

    windows: when it may be changed, in place of those of node.toml; keep: how many of its releases
    stay here, what runs and the way back among them; user: whom it runs as in production,
    `app-<name>` when this is empty; readable: folders outside of `/usr` that its hooks and exec
    probes see; units: units of systemd that are the app's, by the names that its probes know
    """

    ports: dict[PortName, Port] = msgspec.field(default_factory=dict)
    interpreters: dict[Interpreter, FullPath] = msgspec.field(default_factory=dict)
    windows: Windows = ()
    keep: Annotated[int, Meta(ge=limits.KEEP_LEAST, le=limits.KEEP_MOST)] = limits.KEEP_RELEASES
    user: UserName | Literal[""] = ""
    readable: Annotated[tuple[FullPath, ...], Meta(max_length=16)] = ()
    units: Annotated[dict[PortName, UnitName], Meta(max_length=limits.UNITS)] = msgspec.field(
        default_factory=dict
    )


def load_config(paths: Paths) -> NodeConfig:
    """Return the node's configuration; raises Misuse, Denied."""
    return read_toml(paths.node_toml, NodeConfig, document="node configuration")


def load_app(paths: Paths, app: str) -> AppConfig:
    """Return the owner's word on one app; raises Denied (`not-declared`) when there is none."""
    if not paths.app_toml(app).exists():
        raise Denied(
            f"app {app}",
            expected=f"a file {paths.app_toml(app)}",
            got="none: the owner of this node does not let it run here",
            hint="to let it run, write there which ports it may use: `[ports]`, `web = 8001`",
            reason="not-declared",
        )
    return read_toml(paths.app_toml(app), AppConfig, document=f"configuration of {app}")


def windows_of(paths: Paths, app: str) -> Windows:
    """Return when `app` may be changed here; empty for always. Raises Misuse, Denied."""
    return load_app(paths, app).windows or load_config(paths).windows


_END = ".toml"


def _app_files(paths: Paths) -> list[str]:
    """Return the names in apps.d that end so; a folder that may not be read is no empty one: raises
    Denied.
    """
    folder = str(paths.apps)
    try:
        with explaining(folder):
            names = os.listdir(folder)  # noqa: PTH208  # each poll asks: paths cost more
            return sorted(name for name in names if name.endswith(_END) and name != _END)
    except NotFound:
        return []


def app_names(paths: Paths) -> tuple[str, ...]:
    """Return the apps that the owner lets run here, sorted; raises Misuse for a strange name."""
    found = []
    for name in _app_files(paths):
        try:
            found.append(msgspec.convert(name.removesuffix(_END), AppName, strict=True))
        except msgspec.ValidationError:
            raise Misuse(
                str(paths.apps / name),
                expected="an app's name before .toml",
                got=name.removesuffix(_END),
                reason="config",
                hint="rename it to <app>.toml: a to z, 0 to 9 and hyphens; or remove it",
            ) from None
    return tuple(found)
