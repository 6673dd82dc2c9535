"""`embrasure mirror` and `embrasure letterbox`: make the folder, run the service, verify it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from embrasure.command import Common, common

if TYPE_CHECKING:
    from mirror.config import Kind

F = TypeVar("F", bound=Callable[..., object])
_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_IN = click.Path(path_type=Path, file_okay=False, exists=True)


_door = click.option(
    "--door", metavar="HOST:PORT", help="Where trust files are taken from anybody of the fleet."
)


def _init_options(function: F) -> F:
    """The options by which a new folder learns whom it serves and whom it believes."""
    for option in reversed(
        (
            click.argument("folder", metavar="DIR", type=_DIR),
            click.option("--trust-anchor", "anchor", type=_FILE, required=True,
                         help="Root version 1 of the fleet (anchor.json)."),
            click.option("--name", required=True, help="Its own name, as in its certificate."),
            click.option("--domain", required=True, help="The trust domain of the fleet."),
            click.option("--env", required=True, help="The one environment it serves."),
            click.option("--tls", type=_IN, required=True,
                         help="Folder with tls.key and tls.crt (from `pki issue`)."),
            click.option("--gateway-issuer", "issuer", type=_FILE, required=True,
                         help="The gateway issuer (ca/gateway.crt), until tls.json is verified."),
            click.option("--ca-root", type=_FILE,
                         help="The CA root (ca/root.crt): opens the door before tls.json is here."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def _init(
    kind: Kind,
    common: Common,
    folder: Path,
    *,
    anchor: Path,
    name: str,
    domain: str,
    env: str,
    tls: Path,
    issuer: Path,
    ca_root: Path | None,
) -> None:
    """`folder` is a new service of `kind`."""
    from embrasure import limits
    from embrasure.fs import read_file
    from embrasure.undo import all_or_nothing
    from mirror.config import Config, check_own_leaf, create

    chain = read_file(tls / "tls.crt", limit=limits.TLS_BUNDLE_BYTES)
    check_own_leaf(chain, kind=kind, name=name, domain=domain)
    with all_or_nothing(folder):
        create(
            folder,
            Config(kind=kind, name=name, domain=domain, env=env),
            anchor=read_file(anchor, limit=limits.ROOT_BYTES),
            key=read_file(tls / "tls.key", limit=limits.KEYFILE_BYTES, private=True),
            chain=chain,
            issuer=read_file(issuer, limit=limits.TLS_BUNDLE_BYTES),
            ca_root=read_file(ca_root, limit=limits.TLS_BUNDLE_BYTES) if ca_root else None,
        )
    common.emit(
        f"embrasure.{kind}.init/1",
        {"folder": str(folder), "name": name, "env": env},
        f"{kind} {name} of {env} is in {folder}",
    )


def _run(
    kind: Kind,
    common: Common,
    folder: Path,
    *,
    ingest: str | None,
    read: str | None,
    door: str | None,
) -> None:
    """The service of `folder` has run until it was asked to end."""
    import msgspec

    from embrasure.notify import READY, notify
    from mirror.config import load_config
    from mirror.letterbox import run as run_letterbox
    from mirror.run import run as run_mirror
    from mirror.running import run_alone

    told = load_config(folder, kind)
    config = msgspec.structs.replace(
        told, ingest=ingest or told.ingest, read=read or told.read, door=door or told.door
    )

    def ready(ports: dict[str, int]) -> None:
        found = ", ".join(f"{name} on port {port}" for name, port in ports.items())
        common.say(f"{kind} {config.name} answers: {found}")
        notify(READY)

    run = run_mirror if kind == "mirror" else run_letterbox
    run_alone(folder, lambda: run(folder, config, ready=ready))


@click.command("init")
@_init_options
@common
def mirror_init(
    common: Common,
    folder: Path,
    anchor: Path,
    name: str,
    domain: str,
    env: str,
    tls: Path,
    issuer: Path,
    ca_root: Path | None,
) -> None:
    """Make the folder of a mirror that shows nothing yet.

    \b
    Examples:
      embrasure pki issue mirror/m1 TRUST --out m1-tls
      embrasure mirror init m1 --trust-anchor TRUST/anchor.json --name m1 \\
        --domain fleet.example --env prod --tls m1-tls --gateway-issuer TRUST/ca/gateway.crt \\
        --ca-root TRUST/ca/root.crt
    """
    _init("mirror", common, folder, anchor=anchor, name=name, domain=domain, env=env, tls=tls,
          issuer=issuer, ca_root=ca_root)  # fmt: skip


@click.command("run")
@click.argument("folder", metavar="DIR", type=_IN)
@click.option("--ingest", metavar="HOST:PORT", help="Where the gateway dials (gRPC).")
@click.option("--read", metavar="HOST:PORT", help="Where nodes read (HTTPS).")
@_door
@common
def mirror_run(
    common: Common, folder: Path, ingest: str | None, read: str | None, door: str | None
) -> None:
    """Run a mirror until it is told to stop; the real ports are in DIR/ports.json.

    \b
    Example:
      embrasure mirror run m1 --ingest 10.0.0.5:7444 --read 10.1.0.5:443
    """
    _run("mirror", common, folder, ingest=ingest, read=read, door=door)


@click.command("verify")
@click.argument("folder", metavar="DIR", type=_IN)
@common
def mirror_verify(common: Common, folder: Path) -> None:
    """Verify all that a mirror shows, from the anchor on, and hash every blob again.

    \b
    Example:
      embrasure mirror verify m1 --json
    """
    from mirror.audit import verify_shown

    found = verify_shown(folder)
    common.emit(
        "embrasure.mirror.verify/1",
        found.as_json(),
        f"timestamp {found.timestamp}, {found.roles} roles, {found.documents} documents and "
        f"{found.blobs} blobs ({found.blob_bytes} bytes) verified",
    )


@click.command("init")
@_init_options
@common
def letterbox_init(
    common: Common,
    folder: Path,
    anchor: Path,
    name: str,
    domain: str,
    env: str,
    tls: Path,
    issuer: Path,
    ca_root: Path | None,
) -> None:
    """Make the folder of an empty letterbox.

    \b
    Examples:
      embrasure pki issue letterbox/l1 TRUST --out l1-tls
      embrasure letterbox init l1 --trust-anchor TRUST/anchor.json --name l1 \\
        --domain fleet.example --env prod --tls l1-tls --gateway-issuer TRUST/ca/gateway.crt \\
        --ca-root TRUST/ca/root.crt
    """
    _init("letterbox", common, folder, anchor=anchor, name=name, domain=domain, env=env, tls=tls,
          issuer=issuer, ca_root=ca_root)  # fmt: skip


@click.command("run")
@click.argument("folder", metavar="DIR", type=_IN)
@click.option("--ingest", metavar="HOST:PORT", help="Where the gateway dials (gRPC).")
@click.option("--post", metavar="HOST:PORT", help="Where nodes post (HTTPS).")
@_door
@common
def letterbox_run(
    common: Common, folder: Path, ingest: str | None, post: str | None, door: str | None
) -> None:
    """Run a letterbox until it is told to stop; the real ports are in DIR/ports.json.

    \b
    Example:
      embrasure letterbox run l1 --ingest 10.0.0.6:7445 --post 10.1.0.6:443
    """
    _run("letterbox", common, folder, ingest=ingest, read=post, door=door)
