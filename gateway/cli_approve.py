"""`embrasure approve|reject|approvals`: a person's yes or no, signed on the person's machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import click

from embrasure.command import Common, common, screen
from embrasure.errors import Denied
from pki.options import passphrase_options


@click.command()
@click.argument("name", metavar="ID")
@click.option("--confirm-digest", metavar="DIGEST", help="The plan's whole digest, for scripts.")
@click.option("--comment", default="", help="Kept with the signature.")
@passphrase_options
@common
def approve(
    common: Common,
    name: str,
    confirm_digest: str | None,
    comment: str,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Check a proposal on this machine, show all that changes, then sign it.

    Nothing the gateway says is believed: role, plan, manifest, waves and the proposer's signature
    are worked out again. Your own proposal, and a second content under one number, are refused.

    \b
    Examples:
      embrasure approve 3f9c2a1b
      embrasure approve 3f9c2a1b --confirm-digest 3f9c2a1b...64 --passphrase-file ben.pass
    """
    from embrasure.clock import now
    from gateway import approving
    from gateway.client import AdminClient
    from gateway.shown import words
    from gateway.statements import check_not_proposer
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        review = approving.fetch_review(client, name, at=now())
        click.echo(
            screen(review.text), err=True
        )  # also with --quiet: nobody signs what was not shown
        # Said before anybody types anything; checked again with the key itself.
        check_not_proposer(client.context.person, review.release)
        typed = confirm_digest or _ask(common, review.release.plan_digest)
        approving.check_confirmed(review, typed, whole=confirm_digest is not None)
        found = approving.approve(client, review, client.signer(source), comment=comment, at=now())
    digest = review.release.plan_digest
    body = {
        "id": digest[:16],
        "plan": f"sha256:{digest}",
        "state": found.get("state", ""),
        "approved_by": found.get("approved_by", []),
        "threshold": review.grounds.threshold,
        "quotas": review.grounds.quotas(),
        "lacks": review.grounds.lacking(_names(found.get("approved_by"))),
        "shown": f"sha256:{review.sha256}",
    }
    text = f"signed: {review.release.role} seq {review.release.plan.seq}, {body['state']}"
    text += f"\napproved by {words(body['approved_by'])} of {review.grounds.needs()}"
    if body["lacks"]:
        text += f"; still needs {body['lacks']}"
    if body["state"] == "approved":
        text += f"\nnext: embrasure rollout start --plan sha256:{digest}"
    common.emit("embrasure.approve/1", body, text)


def _names(found: object) -> list[str]:
    return [str(name) for name in found] if isinstance(found, list) else []


def _quotas(row: Mapping[str, object]) -> str:
    """Return the quotas of a waiting plan, and what is still missing of anything."""
    quotas = row.get("quotas")
    if not isinstance(quotas, dict) or not quotas:
        return ""
    asked = ", ".join(f"{count} of {group}" for group, count in quotas.items())
    return f" with {asked} (needs {row.get('lacks') or 'nothing more'})"


def _ask(common: Common, digest: str) -> str:
    """Return what a person typed; raises Denied when nobody can be asked."""
    if common.no_input:
        raise Denied(
            "confirmation",
            expected="--confirm-digest with the plan's whole digest",
            got="no terminal",
            untouched="nothing was signed",
            reason="no-input",
        )
    prompt = f"type the first 8 hex digits of the plan's digest (sha256:{digest}) to sign"
    answer: str = click.prompt(prompt, err=True, default="", show_default=False)
    return answer


@click.command()
@click.argument("name", metavar="ID")
@click.option("--reason", required=True, help="Why not; everybody sees it.")
@passphrase_options
@common
def reject(
    common: Common,
    name: str,
    reason: str,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Say a signed no: it ends the proposal for good.

    \b
    Examples:
      embrasure reject 3f9c2a1b --reason "the probe passes on an empty page"
      embrasure reject 3f9c2a1b --reason "not this week" --json
    """
    say_word(common, name, "reject", reason, passphrase_fd, passphrase_file)


def say_word(
    common: Common,
    name: str,
    decision: Literal["reject", "withdraw"],
    reason: str,
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """The signed word is at the gateway; what it ended is shown."""
    from embrasure.clock import now
    from gateway import approving
    from gateway.client import AdminClient
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        review = approving.fetch_review(client, name, at=now())
        found = approving.say_no(
            client, review, client.signer(source), decision=decision, reason=reason, at=now()
        )
    digest, release = review.release.plan_digest, review.release
    body = {"id": digest[:16], "plan": f"sha256:{digest}", "state": found.get("state", "")}
    text = f"{digest[:16]} {release.role} seq {release.plan.seq}: {body['state']}"
    common.emit(f"embrasure.{decision}/1", body, text)


@click.command()
@click.option("--env", default="", help="Only this environment.")
@click.option("--mine", is_flag=True, help="Only what waits for you.")
@common
def approvals(common: Common, env: str, mine: bool) -> None:
    """List what waits for approval: who signed, who may still sign, until when.

    \b
    Examples:
      embrasure approvals
      embrasure approvals --mine --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.client import AdminClient
    from gateway.shown import rows_of, words

    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        found = client.json("ListApprovals", wire.Query(env=env, limit=100))
    rows = [row for row in rows_of(found, "approvals") if row.get("mine") or not mine]
    lines = [
        f"{row.get('id')}  {row.get('role')} seq {row.get('seq')}  by {row.get('proposer')}  "
        f"{len(words(row.get('approved_by')).split())} of {row.get('threshold')}"
        f"{_quotas(row)}  "
        f"can sign: {words(row.get('missing'))}  until {row.get('approve_by')}"
        f"{'  <- you' if row.get('mine') else ''}"
        for row in rows
    ]
    common.emit("embrasure.approvals/1", {"approvals": rows}, "\n".join(lines) or "nothing waits")
