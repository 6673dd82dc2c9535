"""`embrasure fleet recover`: what an operator agrees to for one node."""

from __future__ import annotations

import click

from embrasure.command import Common, common


@click.command()
@click.argument("nodes", metavar="NODE...", nargs=-1, required=True)
@click.option("--env", required=True, help="The environment.")
@common
def fleet_recover(common: Common, nodes: tuple[str, ...], env: str) -> None:
    """Renew the certificate of push nodes that were off for longer than it lived.

    Such a node shows its boot certificate. The gateway dials it, and nobody else, when what it
    shows is the very certificate that the signed directory names, and only because you ask.

    \b
    Examples:
      embrasure fleet recover n-abc... --env prod
      embrasure fleet recover n-abc... n-def... --env prod --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient

    found = []
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        for node in nodes:
            request = wire.NodeRequest(env=env, node=node)
            found.append(client.json("RecoverNode", request))
            common.say(f"node {node}: renewed until {found[-1].get('not_after')}")
    rows = [{name: value for name, value in row.items() if name != "schema"} for row in found]
    text = "\n".join(f"{row['node']}  serial {row['serial']}" for row in rows)
    common.emit("embrasure.fleet.recover/1", {"env": env, "nodes": rows}, text)
