"""`embrasure fleet ...`, `status`: what the gateway says of the nodes."""

from __future__ import annotations

from collections.abc import Mapping

import click

from embrasure.command import Common, common


@click.command()
@click.option("--env", required=True, help="The environment.")
@common
def fleet_status(common: Common, env: str) -> None:
    """Count the nodes of an environment by state and by what they last reported.

    \b
    Examples:
      embrasure fleet status --env prod
      embrasure fleet status --env prod --json
    """
    from collections import Counter

    from gateway.shown import part_of, rows_of

    found = _fleet(common, env)
    nodes = rows_of(found, "nodes")
    states = Counter(str(node.get("state")) for node in nodes)
    last = Counter(str(part_of(node, "last").get("outcome", "never_heard")) for node in nodes)
    body = {"env": env, "nodes": len(nodes), "states": dict(states), "last": dict(last)}
    counts = [f"{count} {name}" for name, count in sorted((states + last).items())]
    common.emit("embrasure.fleet.status/1", body, f"{env}: {len(nodes)} nodes: {', '.join(counts)}")


@click.command()
@click.option("--env", required=True, help="The environment.")
@common
def fleet_list(common: Common, env: str) -> None:
    """List the nodes of an environment: labels, address, last receipt, certificate.

    \b
    Examples:
      embrasure fleet list --env prod
      embrasure fleet list --env prod --json
    """
    from gateway.shown import body_of, part_of, rows_of

    found = _fleet(common, env)
    lines = []
    for node in rows_of(found, "nodes"):
        last = part_of(node, "last")
        labels = ",".join(f"{k}={v}" for k, v in sorted(part_of(node, "labels").items())) or "-"
        heard = f"{last.get('kind')} {last.get('outcome')} {last.get('at')}" if last else "never"
        lines.append(
            f"{node.get('id')}  {node.get('mode')}  {node.get('state')}  {labels}  "
            f"{node.get('address') or '-'}  {heard}  {_certificate(part_of(node, 'certificate'))}"
        )
    common.emit("embrasure.fleet.list/1", body_of(found), "\n".join(lines))


def _certificate(row: Mapping[str, object]) -> str:
    if not row:
        return "-"
    until = f"until {row.get('not_after')}" if row.get("not_after") else "not seen"
    return f"{until}  PROBLEM {row.get('problem')}" if row.get("problem") else until


def _fleet(common: Common, env: str) -> dict[str, object]:
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        return client.json("Fleet", wire.Query(env=env))


@click.command()
@click.argument("kind", type=click.Choice(["node", "mirror", "letterbox"]))
@click.argument("name")
@click.argument("address", metavar="[HOST:PORT]", default="")
@click.option("--env", required=True, help="The environment.")
@common
def fleet_address(common: Common, kind: str, name: str, address: str, env: str) -> None:
    """Say where a push node, mirror or letterbox is dialled; without an address it is forgotten.

    It gives nobody a right: who answers there must show the name that was dialled.

    \b
    Examples:
      embrasure fleet address node n-abc... 10.0.0.5:7444 --env prod
      embrasure fleet address mirror m1 10.0.0.9:7445 --env prod
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.shown import body_of

    request = wire.AddressRequest(kind=kind, env=env, name=name, address=address)
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.json("SetAddress", request)
    text = f"{kind} {name}: {address}" if address else f"{kind} {name}: forgotten"
    common.emit("embrasure.address/1", body_of(found), text)


@click.command()
@common
def overview(common: Common) -> None:
    """Show on one screen: what waits for approval, roll-outs, the fleet, what expires.

    \b
    Examples:
      embrasure status
      embrasure status --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.shown import body_of

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.json("Overview", wire.Empty())
    common.emit("embrasure.status/1", body_of(found), _screen(found))


def _screen(found: Mapping[str, object]) -> str:
    from gateway.shown import part_of, rows_of

    lines = [f"gateway {found.get('gateway')}, audit head {found.get('audit_head')}"]
    for row in rows_of(found, "approvals"):
        mark = "  <- you" if row.get("mine") else ""
        lines.append(f"waits: {row.get('id')} {row.get('role')} seq {row.get('seq')}{mark}")
    for row in rows_of(found, "rollouts"):
        where = f"{row.get('env')}-{row.get('app')} seq {row.get('seq')}"
        lines.append(f"rollout: {row.get('id')} {where}: {row.get('state')}")
    for env, counts in sorted(part_of(found, "fleet").items()):
        told = counts.items() if isinstance(counts, dict) else ()
        lines.append(f"fleet {env}: " + ", ".join(f"{count} {name}" for name, count in told))
    soon = sorted(part_of(found, "expires").items(), key=lambda item: str(item[1]))[:3]
    lines += [f"expires: {role} at {until}" for role, until in soon]
    lines += [f"PROBLEM {role}: {why}" for role, why in part_of(found, "problems").items()]
    return "\n".join(lines)
