"""`embrasure fleet trust`: who believes which trust bundle, for the next step of a rotation."""

from __future__ import annotations

import click

from embrasure.command import Common, common


@click.command()
@click.option("--env", required=True, help="The environment.")
@common
def fleet_trust(common: Common, env: str) -> None:
    """Show which `tls.json` each node, mirror and letterbox believes.

    Push nodes are asked now; of pull nodes the last receipt tells it. Carry the JSON to the trust
    folder: `pki issuer activate` and `pki ca retire` wait for those who lack the newest files.

    \b
    Examples:
      embrasure fleet trust --env prod
      embrasure fleet trust --env prod --json > report.json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.shown import body_of, rows_of

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.json("TrustHolders", wire.Query(env=env))
    lines = [
        f"{row.get('kind')}  {row.get('name')}  {str(row.get('tls'))[:16] or 'did not say'}  "
        f"{row.get('at') or '-'}"
        for row in rows_of(found, "holders")
    ]
    common.emit("embrasure.fleet.trust/1", body_of(found), "\n".join(lines))
