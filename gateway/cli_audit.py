"""`embrasure audit show|verify`: the journal's records, and the chain that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embrasure.command import Common, common

if TYPE_CHECKING:
    from gateway.records import Head

_DIR = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--since", default=0, type=click.IntRange(0), help="Only records after this number.")
@click.option("--follow", is_flag=True, help="Go on with new ones as they come.")
@common
def audit_show(common: Common, since: int, follow: bool) -> None:
    """Show who did what, when, and how it ended; refused attempts too. JSON lines under --json.

    \b
    Examples:
      embrasure audit show --since 100
      embrasure audit show --follow --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.records import parse_event

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        request = wire.AuditQuery(since=since, follow=follow)
        for message in client.pieces("Audit", request, thing="audit journal"):
            event = parse_event(message.body)
            if common.json:
                click.echo(message.body.decode("utf-8"))
                continue
            ended = f" -> {event.result}" if event.result else ""
            why = f" ({event.reason})" if event.reason else ""
            phase = event.phase if event.of == 0 else f"{event.phase} of {event.of}"
            line = f"{event.n} {event.at} {event.actor} {event.act} {event.key}"
            common.emit("", {}, f"{line} [{phase}]{ended}{why}")


@click.command()
@click.option("--folder", type=_DIR, help="A gateway's folder on this machine, instead of asking.")
@common
def audit_verify(common: Common, folder: Path | None) -> None:
    """Verify the whole chain, and that it still contains the head this machine saw last.

    A changed byte, a lost tail and a second history are exit 4.

    \b
    Examples:
      embrasure audit verify
      embrasure audit verify --folder gw --json
    """
    head, held, root = _verify_folder(folder) if folder else _verify_gateway(common)
    body = {"records": head.n, "head": f"sha256:{head.sha256}", "seen_before": str(held)}
    text = f"{head.n} records, intact, head {head}\nseen before: {held}\nfleet {root}"
    common.emit("embrasure.audit.verify/1", body, text)


def _verify_folder(folder: Path) -> tuple[Head, Head, str]:
    from embrasure import fs, limits
    from embrasure.trust.anchor import root_id_of
    from gateway.config import Paths
    from gateway.records import FILE, FIRST, verify_file

    paths = Paths(folder)
    root = root_id_of(fs.read_file(paths.anchor, limit=limits.ROOT_BYTES))
    return verify_file(paths.state / FILE, root=root), FIRST, root


def _verify_gateway(common: Common) -> tuple[Head, Head, str]:
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.memory import Memory
    from gateway.records import check_chain

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        root = client.trust.root_id
        memory = Memory(client.context.state, root=root)
        held = memory.head()
        lines = client.pieces("Audit", wire.AuditQuery(), thing="audit journal")
        head = check_chain((message.body for message in lines), root=root, held=held)
        memory.keep_head(head)
    return head, held, root
