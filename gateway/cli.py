"""`embrasure gateway init|run|status`: the gateway's folder and its process."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--trust", required=True, type=_DIR, help="The security team's folder.")
@click.option("--name", show_default="g1", help="The gateway's id.")
@click.option("--listen", show_default="127.0.0.1:0", help="Where operators dial.")
@click.option("--login", metavar="HOST:PORT", help="Open a log-in port (copies that issuer too).")
@common
def gateway_init(
    common: Common,
    folder: Path,
    trust: Path,
    name: str | None,
    listen: str | None,
    login: str | None,
) -> None:
    """Make the gateway's folder DIR, or bring newer trust files and gate keys to it.

    Copies the trust files in force, the online keys and the two TLS issuers (encrypted as they
    are) and the collect key. No offline key is read. A running gateway takes new online keys at
    once and uses them from `trust submit` on; issuers and a log-in port with its next start. Key
    files that nothing names any more are told: delete them, here and in the trust folder.

    \b
    Examples:
      embrasure gateway init gw --trust trust --name g1 --listen 127.0.0.1:7443
      embrasure gateway init gw --trust trust
      embrasure gateway init gw --trust trust --login 127.0.0.1:7444
    """
    from embrasure.undo import all_or_nothing
    from gateway.init import initialise
    from pki.folder import TrustFolder

    fleet = TrustFolder.open(trust)
    with all_or_nothing(folder):
        made = initialise(folder, fleet, name=name, listen=listen, login=login)
    body = {
        "folder": str(made.folder),
        "environments": list(made.environments),
        "files": made.files,
        "keys": list(made.keys),
        "unused": list(made.unused),
    }
    envs = ", ".join(made.environments) or "none yet"
    text = f"{made.folder}: {made.files} trust files; environments with a gate key: {envs}"
    if made.unused:
        names = ", ".join(made.unused)
        text += f"\nnothing names these keys any more: {names}: delete them in {folder}/keys"
        text += f" and {trust}/online"
    common.emit("embrasure.gateway.init/1", body, text)


@click.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@passphrase_options
@common
def gateway_run(
    common: Common, folder: Path, passphrase_fd: int | None, passphrase_file: Path | None
) -> None:
    """Serve operators and run roll-outs until SIGTERM. DIR/ports.json has the port when ready.

    Nothing on the node side can dial the gateway: it listens to operators only.

    \b
    Examples:
      embrasure gateway run gw --passphrase-file online.pass
      embrasure gateway run gw --passphrase-fd 3 3< online.pass
    """
    import asyncio

    from embrasure.clock import now
    from embrasure.notify import READY, notify
    from gateway.run import opened, serve_until_signal
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    with opened(folder, source) as held:

        def ready(port: int) -> None:
            common.say(f"gateway {held.config.name}: operators on port {port}")
            notify(READY)

        asyncio.run(serve_until_signal(held, clock=now, ready=ready))


@click.command()
@click.argument("folder", metavar="DIR", type=_DIR)
@common
def gateway_status(common: Common, folder: Path) -> int:
    """Show whether a gateway runs in DIR, what it publishes, and what expires next.

    Reads files only; exit 1 when something that nodes need has expired.

    \b
    Examples:
      embrasure gateway status gw
      embrasure gateway status gw --json
    """
    from embrasure.clock import now
    from gateway.local_status import local_status

    found = local_status(folder, at=now())
    lines = [
        f"gateway {found.name}: {'runs, port ' + str(found.port) if found.port else 'not running'}",
        *(
            f"{role.name} v{role.version}, until {role.until}{'  EXPIRED' if role.expired else ''}"
            for role in found.roles
        ),
    ]
    common.emit("embrasure.gateway.status/1", found.as_json(), "\n".join(lines))
    return 1 if any(role.expired for role in found.roles) else 0
