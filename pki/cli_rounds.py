"""`embrasure trust pending` and `trust refuse`: what waits for whom, and a signed no."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command("pending")
@click.argument("folder", metavar="DIR", type=_DIR)
@common
def trust_pending(common: Common, folder: Path) -> None:
    """Show for each draft which keys it still needs: whose, their fingerprints, where they lie.

    \b
    Examples:
      embrasure trust pending trust
      embrasure trust pending trust --json
    """
    from pki import pending
    from pki.folder import TrustFolder

    trust = TrustFolder.open(folder)
    body = {"drafts": [pending.as_json(trust, draft) for draft in trust.drafts()]}
    common.emit("embrasure.trust.pending/1", body, pending.as_text(trust))


@click.command("refuse")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--role", help="The role whose draft is refused.")
@click.option("--key", required=True, metavar="URI", help="Your key, one that could sign it.")
@click.option("--reason", required=True, help="Why not; everybody sees it.")
@passphrase_options
@common
def trust_refuse(
    common: Common,
    folder: Path,
    role: str | None,
    key: str,
    reason: str,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Say a signed no to a draft: these very bytes are never put in force, whoever else signs.

    DIR is the trust folder or whatever was carried here; `trust merge --from` takes it back.

    \b
    Examples:
      embrasure trust refuse trust --role root --key keyfile:alice.key --reason "carl stays"
      embrasure trust refuse /media/usb --role fleet-prod --key bob.key --reason "wrong labels"
    """
    from embrasure.clock import now
    from pki import signround
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    with signround.record(folder):
        found = signround.refuse_drafts(folder, role, key, reason, source=source, clock=now)
    text = "\n".join(f"refused {one['role']} v{one['version']}: {one['file']}" for one in found)
    common.emit("embrasure.trust.refuse/1", {"refused": found}, text)
