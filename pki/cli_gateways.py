"""`embrasure trust gateway`: which gateways nodes, mirrors and letterboxes let in."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command("add")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@sign_option
@passphrase_options
@common
def trust_gateway_add(
    common: Common,
    ids: tuple[str, ...],
    folder: Path,
    env: str,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft gateways into an environment: their certificates alone let nobody in.

    \b
    Examples:
      embrasure trust gateway add g2 trust --env prod --sign alice.key --sign bob.key
    """
    _change(common, folder, env, ids, (), sign, passphrase_fd, passphrase_file)


@click.command("remove")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@sign_option
@passphrase_options
@common
def trust_gateway_remove(
    common: Common,
    ids: tuple[str, ...],
    folder: Path,
    env: str,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Draft gateways out of an environment; open streams of theirs end as well.

    \b
    Examples:
      embrasure trust gateway remove g1 trust --env prod --sign alice.key --sign bob.key
    """
    _change(common, folder, env, (), ids, sign, passphrase_fd, passphrase_file)


def _change(
    common: Common,
    folder: Path,
    env: str,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    sign: tuple[str, ...],
    fd: int | None,
    file: Path | None,
) -> None:
    from embrasure.clock import now
    from pki import acting, gateways
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=fd, file=file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    with trust.lock():
        made = gateways.change(trust, env, add=add, remove=remove, clock=now)
        found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
    common.emit("embrasure.trust.drafts/1", found, acting.as_text(found, trust))
