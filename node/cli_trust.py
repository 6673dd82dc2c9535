"""`embrasure node trust`: trust files from a folder, for a node that no network reaches."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from node.cli import EXITS, finer, plain_option
from node.options import node_options


@click.command(epilog=EXITS)
@node_options
@plain_option
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@common
def node_trust(common: Common, prefix: Path, path: Path, plain_exit: bool) -> int:
    """Take newer trust files (root, targets, fleet, revocations) from a folder; installs nothing.

    They verify themselves, so who brings the folder does not matter. A stop, the lifting of a
    wrong denial and new TLS issuers count at once. Any folder with metadata/ and targets/ will do:
    the security team's own, a mirror's public folder, a stick.

    \b
    Examples:
      embrasure node trust --root /srv/n1 /media/stick
      embrasure node trust --root /srv/n1 trust --json
    """
    from node import exits, show, stick
    from node.paths import Paths

    with finer(plain_exit):
        found = stick.trust_folder(Paths(prefix.resolve()), path)
    code = exits.REJECTED if found.refused else exits.MISSING if found.missing else exits.DONE
    code = exits.plain(code) if plain_exit else code
    common.emit("embrasure.node.trust/1", show.trust_json(found), show.trust_text(found))
    return code
