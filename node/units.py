"""How a release is started: the manifest says what, the node's owner says with which numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from embrasure.bundle.manifest import ExecProbe, Manifest, SystemdProbe, is_listed
from embrasure.errors import Denied
from node import credentials
from node.companions import AppUnit
from node.config import AppConfig
from node.isolation import Isolation
from node.paths import Paths
from node.releases import Installed
from node.rooms import make_shared

_PATH = "/usr/local/bin:/usr/bin:/bin"


def check_allowed(manifest: Manifest, config: AppConfig) -> None:
    """Return only when the owner gave a number to every port, a path to every interpreter, and a
    unit of systemd to every name of one.

    Raises Denied (`not-declared`): the release is not for this node as it is set up.
    """
    for port in manifest.run.ports:
        if port not in config.ports:
            raise Denied(
                f"app {manifest.app}", expected=f"a number for port `{port}` in apps.d",
                got="none", reason="not-declared",
                hint=f"add it to apps.d/{manifest.app}.toml: `[ports]`, `{port} = 8001`",
            )  # fmt: skip
    for probe in manifest.probes:
        if isinstance(probe, SystemdProbe) and probe.unit not in config.units:
            raise Denied(
                f"app {manifest.app}", expected=f"a unit `{probe.unit}` in apps.d", got="none",
                reason="not-declared",
                hint=f"add it to apps.d/{manifest.app}.toml: `[units]`, "
                     f"`{probe.unit} = \"NAME.service\"`",
            )  # fmt: skip
    commands = [manifest.run.argv, *(hook.argv for hook in manifest.hooks)]
    commands += [probe.argv for probe in manifest.probes if isinstance(probe, ExecProbe)]
    for argv in commands:
        if not is_listed(manifest, argv[0]) and argv[0] not in config.interpreters:
            raise Denied(
                f"app {manifest.app}", expected=f"an interpreter `{argv[0]}` in apps.d",
                got="none", reason="not-declared",
                hint=f"add it to apps.d/{manifest.app}.toml: `[interpreters]`, "
                     "its name = its full path",
            )  # fmt: skip


def resolve(
    argv: Sequence[str], *, manifest: Manifest, folder: Path, config: AppConfig
) -> list[str]:
    """Return `argv` with a full path in front: a file of the release, else an interpreter."""
    if is_listed(manifest, argv[0]):
        return [str(folder / argv[0]), *argv[1:]]
    return [config.interpreters[argv[0]], *argv[1:]]


def environment(
    paths: Paths, installed: Installed, config: AppConfig, **extra: str
) -> dict[str, str]:
    """Return all that a process of the release sees; nothing is inherited from the node.

    What we set comes last: neither manifest nor plan can say another port or release.
    """
    manifest = installed.manifest
    release = installed.release.id
    where = credentials.folder_of(paths, manifest.app, release)
    own = {
        **({credentials.VARIABLE: str(where)} if manifest.secrets else {}),
        "EMBRASURE_APP": manifest.app,
        "EMBRASURE_RELEASE": installed.release.manifest[:16],
        "EMBRASURE_SHARED": str(paths.shared(manifest.app)),
        **{
            f"EMBRASURE_PORT_{name.upper()}": str(config.ports[name]) for name in manifest.run.ports
        },
        **{f"EMBRASURE_{name.upper()}": value for name, value in extra.items()},
    }
    base = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "HOME": str(paths.shared(manifest.app)),
        "PYTHONDONTWRITEBYTECODE": "1",  # a release folder is never written to, not even a cache
    }
    return {**base, **manifest.run.env, **installed.plan.settings, **own}


def ports(installed: Installed, config: AppConfig) -> Mapping[str, int]:
    """Return the number of every port that the release names."""
    return {name: config.ports[name] for name in installed.manifest.run.ports}


def companions(manifest: Manifest, config: AppConfig) -> tuple[str, ...]:
    """Return the units of systemd that the release's probes name, each once."""
    probes = (probe for probe in manifest.probes if isinstance(probe, SystemdProbe))
    return tuple(dict.fromkeys(config.units[probe.unit] for probe in probes))


def unit_of(paths: Paths, installed: Installed, config: AppConfig, isolation: Isolation) -> AppUnit:
    """Return how the release is started; its data folder is there. Raises Denied."""
    manifest = installed.manifest
    check_allowed(manifest, config)
    user = isolation.user(manifest.app, config)
    make_shared(paths, manifest.app, user)
    folder = paths.release(manifest.app, installed.release.id)
    argv = resolve(manifest.run.argv, manifest=manifest, folder=folder, config=config)
    return AppUnit(
        app=manifest.app,
        release=installed.release.id,
        argv=tuple(argv),
        env=environment(paths, installed, config),
        cwd=folder,
        user=user,
        companions=companions(manifest, config),
    )
