"""`embrasure pki token`: a one-time join token for one node, minted by a keyholder."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command("token")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--id", "node", default="", metavar="NODE", help="A node id; default: a random one.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False),
    help="New file for the token, which only you may read.",
)  # fmt: skip
@click.option("--ttl", "ttl_s", default=3600, show_default=True, help="Seconds that it is good.")
@common
def pki_token(common: Common, folder: Path, env: str, node: str, out: Path, ttl_s: int) -> None:
    """Mint a one-time token for one node id; give it to the new machine, never to an image.

    Of the token nothing is kept here but the key of its MAC. It is used up by the first right
    answer, and void after its time or five wrong answers.

    \b
    Examples:
      embrasure pki token trust --env prod --out n1.token
      embrasure pki token trust --env prod --id n-... --ttl 600 --out n1.token
    """
    from embrasure import fs
    from embrasure.clock import now, write_time
    from pki import joining
    from pki.folder import TrustFolder

    trust = TrustFolder.open(folder)
    with trust.lock():
        made = joining.mint(trust, env, node, ttl_s=ttl_s, clock=now)
        fs.create_file(out.parent, out.name, f"{made.token}\n".encode("ascii"))
    until = write_time(made.expires)
    body = {"node": made.node, "env": env, "file": str(out), "expires": until}
    text = f"node {made.node}: {out}, until {until}"
    common.emit("embrasure.pki.token/1", body, text)
