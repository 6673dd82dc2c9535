"""`embrasure release propose|list|show|withdraw`: from a bundle to an open approval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options

_FILE = click.Path(path_type=Path, dir_okay=False)
_DIR = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("bundle", type=_DIR)
@click.option("--plan", "plan", required=True, type=_FILE, help="The plan file (TOML).")
@click.option("--secret", "sealed", multiple=True, type=_FILE, help="A sealed file (repeat).")
@click.option("--supersede", is_flag=True, help="Take the lock from a plan that is not running.")
@passphrase_options
@common
def release_propose(
    common: Common,
    bundle: Path,
    plan: Path,
    sealed: tuple[Path, ...],
    supersede: bool,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Upload BUNDLE and open an approval for exactly one plan; you cannot approve it yourself.

    Plan and role are built and signed here. A broken upload goes on at its byte. A secret that the
    release names and that is not given stays as the running release has it.

    \b
    Examples:
      embrasure release propose shop-1.0.bundle --plan shop.toml
      embrasure release propose shop-1.0.bundle --plan shop.toml --json --passphrase-file anna.pass
      embrasure release propose shop-1.1.bundle --plan shop.toml --secret db-v3.sealed.json
    """
    from embrasure.bundle.folder import open_bundle, verify_bundle
    from embrasure.clock import now
    from embrasure.config import read_toml
    from embrasure.trust.documents import write
    from gateway.client import AdminClient
    from gateway.planfile import PlanFile
    from gateway.proposing import propose
    from pki import secretfiles
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    secrets = [write(one) for one in secretfiles.read_sealed(sealed)]
    opened = open_bundle(bundle)
    verify_bundle(opened)
    request = read_toml(plan, PlanFile, document="plan file", owned=False)
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        release, preview, answer = propose(
            client,
            opened,
            request,
            client.signer(source),
            supersede=supersede,
            at=now(),
            say=common.say,
            sealed=secrets,
        )
    for warning in preview.warnings:
        common.say(f"warning: {warning}")
    body = {
        "id": answer.get("id", ""),
        "plan": f"sha256:{release.plan_digest}",
        "manifest": f"sha256:{release.plan.manifest.sha256}",
        "role": release.role,
        "seq": release.plan.seq,
        "state": answer.get("state", ""),
        "threshold": answer.get("threshold", 0),
        "approve_by": release.plan.approve_by,
        "waves": [
            {"name": wave.name, "nodes": list(members)}
            for wave, members in zip(release.plan.waves, preview.members, strict=True)
        ],
        "warnings": list(preview.warnings),
        "secrets": [one.label for one in release.secrets],
    }
    waves = ", ".join(
        f"{wave.name} {len(members)}"
        for wave, members in zip(release.plan.waves, preview.members, strict=True)
    )
    text = (
        f"{body['id']} {release.role} seq {release.plan.seq}: waits for {body['threshold']} "
        f"persons, until {release.plan.approve_by}\n"
        f"waves: {waves}\nplan sha256:{release.plan_digest}\n"
        f"next: embrasure approve {body['id']}"
    )
    common.emit("embrasure.release.propose/1", body, text)


@click.command()
@click.option("--env", default="", help="Only this environment.")
@click.option("--app", default="", help="Only this app.")
@click.option("--limit", default=100, type=click.IntRange(1, 100), help="Rows.")
@click.option("--cursor", default="", help="Where the last list ended.")
@common
def release_list(common: Common, env: str, app: str, limit: int, cursor: str) -> None:
    """List proposals, newest first: state, proposer, who approved.

    \b
    Examples:
      embrasure release list
      embrasure release list --env prod --app shop --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.shown import body_of, rows_of

    query = wire.Query(env=env, app=app, limit=limit, cursor=cursor)
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.json("ListReleases", query)
    lines = [_line(row) for row in rows_of(found, "releases")]
    if found.get("cursor"):
        common.say(f"more: --cursor {found['cursor']}")
    common.emit("embrasure.release.list/1", body_of(found), "\n".join(lines))


def _line(row: Mapping[str, object]) -> str:
    approved = row.get("approved_by")
    names = ", ".join(map(str, approved)) if isinstance(approved, list) and approved else "nobody"
    return (
        f"{row.get('id')}  {row.get('role')} seq {row.get('seq')}  {row.get('state')}  "
        f"by {row.get('proposer')}, approved by {names} of {row.get('threshold', '?')}"
    )


@click.command()
@click.argument("name", metavar="ID")
@click.option("--text/--no-text", default=True, help="Show what would change.")
@common
def release_show(common: Common, name: str, text: bool) -> None:
    """Show one proposal as an approver sees it; every digest is worked out on this machine.

    \b
    Examples:
      embrasure release show 3f9c2a1b
      embrasure release show 3f9c2a1b --json
    """
    from embrasure.clock import now
    from embrasure.wire import admin_pb2 as wire
    from gateway.approving import fetch_review
    from gateway.client import AdminClient

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        review = fetch_review(client, name, at=now())
        query = wire.Query(env=review.release.env, app=review.release.app, limit=100)
        found = client.json("ListReleases", query)
    from gateway.shown import rows_of

    digest = review.release.plan_digest
    row = next((r for r in rows_of(found, "releases") if r.get("id") == digest[:16]), {})
    body = {**row, "plan": f"sha256:{digest}", "review": review.text}
    common.emit(
        "embrasure.release.show/1", body, f"{_line(row)}\n\n{review.text}" if text else _line(row)
    )


@click.command()
@click.argument("name", metavar="ID")
@click.option("--reason", default="", help="Why; kept in the journal.")
@passphrase_options
@common
def release_withdraw(
    common: Common,
    name: str,
    reason: str,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Take back your own proposal, while too few persons have approved it.

    \b
    Examples:
      embrasure release withdraw 3f9c2a1b
      embrasure release withdraw 3f9c2a1b --reason "wrong window" --json
    """
    from gateway.cli_approve import say_word

    say_word(common, name, "withdraw", reason, passphrase_fd, passphrase_file)
