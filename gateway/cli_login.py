"""`embrasure login` and `whoami`: who an operator is to the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.option("--out", type=_DIR, help="Make this operator folder first; needs all that follow.")
@click.option("--person", metavar="NAME", help="Who you are in the policy.")
@click.option("--key", metavar="URI", help="Your signing key.")
@click.option("--domain", metavar="DOMAIN", help="The trust domain.")
@click.option("--gateway", metavar="HOST:PORT", help="Where operators dial.")
@click.option("--at", metavar="HOST:PORT", help="Where log-ins are taken.")
@click.option("--anchor", type=_FILE, help="Root version 1, from the security team.")
@click.option("--admin-issuer", type=_FILE, help="The gateways' issuer, from the security team.")
@passphrase_options
@common
def login(
    common: Common,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
    out: Path | None,
    anchor: Path | None,
    admin_issuer: Path | None,
    **wish: str | None,
) -> None:
    """Get a TLS certificate of 10 hours for the context, with your signing key.

    Needs no certificate: an ended one is replaced. The gateway is known by the context's issuer
    before anything is signed, and nobody else can use the signature.

    \b
    Examples:
      embrasure login --context anna/context.toml
      embrasure login --context anna/context.toml --at 10.0.0.1:7444
      embrasure login --out anna --person anna --key anna.key --domain acme.test \\
          --gateway 10.0.0.1:7443 --at 10.0.0.1:7444 --anchor anchor.json --admin-issuer ca.pem
    """
    from embrasure.clock import now, write_time
    from embrasure.errors import EmbrasureError
    from embrasure.undo import all_or_nothing
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.context import read_context
    from gateway.logging_in import check_unsaid, log_in, login_at, new_folder
    from gateway.shown import rows_of
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    if out is None:
        context = login_at(read_context(common.context), wish.pop("at"))
        check_unsaid(wish, anchor, admin_issuer)
        done = log_in(context, source, clock=now)
    else:
        with all_or_nothing(out):
            context = new_folder(out, anchor=anchor, admin_issuer=admin_issuer, wish=wish)
            done = log_in(context, source, clock=now)
    try:
        with AdminClient(context, timeout_s=common.timeout_s) as client:
            found = client.json("Whoami", wire.Empty())
    except EmbrasureError as problem:
        common.say(f"logged in; the gateway does not answer yet: {problem}")
        found = {}
    body = {**done.as_json(), "expiring": rows_of(found, "expiring")}
    lines = [f"{done.identity}: certificate until {write_time(done.until)}", *soon(found)]
    common.emit("embrasure.login/1", body, "\n".join(lines))


@click.command()
@common
def whoami(common: Common) -> None:
    """Show whom the gateway takes you for: certificate, groups, rights, keys, what ends soon.

    \b
    Examples:
      embrasure whoami
      embrasure whoami --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.shown import body_of

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.json("Whoami", wire.Empty())
        root = client.trust.root_id
    body = {**body_of(found), "pinned_root": root}
    common.emit("embrasure.whoami/1", body, "\n".join(_lines(found)))


def _lines(found: Mapping[str, object]) -> list[str]:
    from gateway.shown import part_of, rows_of, words

    until = part_of(found, "certificate").get("not_after")
    lines = [f"{found.get('person')} ({found.get('id')}), certificate until {until}"]
    for row in rows_of(found, "roles"):
        groups = words(row.get("groups")) or "no group"
        apps = part_of(row, "approves").items()
        signs = ", ".join(f"{app} ({count})" for app, count in apps) or "nothing"
        may = words(row.get("rights")) or "nothing: no key that is not denied"
        lines.append(f"{row.get('env')}: {groups}; may {may}")
        lines.append(f"  approves: {signs}")
        for key in rows_of(row, "keys"):
            lines.append(f"  key {str(key.get('id'))[:16]}{' DENIED' if key.get('denied') else ''}")
    if not rows_of(found, "roles"):
        lines.append("a person of no environment")
    lines.append(f"gateway {found.get('gateway')}")
    return [*lines, *soon(found)]


def soon(found: Mapping[str, object]) -> list[str]:
    """Return what the gateway says ends soon, a line each; what to type is not its word."""
    from embrasure.clock import now
    from gateway.care_context import rows
    from gateway.shown import rows_of

    at = now()
    return [
        f"{item.sentence(at)}; {item.action}: {item.command}"
        for item in rows({"items": rows_of(found, "expiring")})
    ]
