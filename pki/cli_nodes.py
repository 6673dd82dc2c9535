"""`embrasure pki retire`: a node leaves the directory, by routine and for good."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command("retire")
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@sign_option
@passphrase_options
@common
def pki_retire(
    common: Common,
    nodes: tuple[str, ...],
    folder: Path,
    env: str,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Take nodes out of the fleet: nothing is installed there again, and the id is used up.

    For a machine that is gone, or that comes back under a new id. It is no denial: use `trust deny`
    for a stolen one. A gateway refuses the change while an open plan names the node (`trust
    submit --force`).

    \b
    Examples:
      embrasure pki retire n-abc... trust --env prod --sign alice.key --sign bob.key
      embrasure pki retire n-abc... n-def... trust --env prod
    """
    from embrasure.clock import now
    from pki import acting
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source
    from pki.retire import retire

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    with trust.lock():
        made = retire(trust, env, nodes, clock=now)
        if made:
            found = acting.sign_and_merge(trust, made, sign, source, common=common, clock=now)
        else:
            found = acting.report(trust, [], [])
    text = acting.as_text(found, trust) if made else "retired already"
    common.emit("embrasure.trust.drafts/1", {**found, "nodes": list(nodes)}, text)
