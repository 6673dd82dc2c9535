"""`embrasure trust submit`: take signed trust files from a folder to the gateway."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Also when an approval or an open plan is lost by it.")
@common
def trust_submit(common: Common, folder: Path, force: bool) -> None:
    """Send the trust files in force in DIR; the gateway publishes what is newer and verifies.

    Root, targets, revocations and fleet roles with their documents; nothing else is read. A new
    targets file that takes signatures from a current approval is refused unless --force, and so is
    a directory that changes a node which an open plan names.

    \b
    Examples:
      embrasure trust submit trust
      embrasure trust submit trust --force --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.init import trust_files
    from gateway.shown import body_of, part_of

    messages = (
        wire.TrustFile(path=path, body=raw, force=force) for path, raw in trust_files(folder)
    )
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.upload("SubmitTrust", messages)
    roles = part_of(found, "roles")
    new = ", ".join(f"{role} v{version}" for role, version in sorted(roles.items()))
    common.emit("embrasure.trust.submit/1", body_of(found), f"published: {new or 'nothing new'}")
