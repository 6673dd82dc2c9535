"""`embrasure rollout rollback`: a former release under a new plan, which k of n approve again."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("app")
@click.option("--env", required=True, help="The environment.")
@click.option("--to", type=int, default=None, metavar="SEQ", help="Default: the one before.")
@click.option("--reason", default="", help="Why; shown to the approvers.")
@click.option("--secret", "sealed", multiple=True, type=_FILE, help="A sealed file (repeat).")
@passphrase_options
@common
def rollout_rollback(
    app: str,
    env: str,
    to: int | None,
    reason: str,
    sealed: tuple[Path, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
    common: Common,
) -> None:
    """Propose a former release again as a new plan: canary, then everybody; k of n approve it.

    It takes the lock of the app from a plan that is not running. Secrets that it names and that are
    not given stay as the running release has them.

    \b
    Examples:
      embrasure rollout rollback shop --env prod --reason "slow checkout"
      embrasure rollout rollback shop --env prod --to 41 --passphrase-file anna.pass
    """
    from embrasure.clock import now
    from embrasure.trust.documents import write
    from gateway.client import AdminClient
    from gateway.proposing import propose
    from gateway.rollback import find_former, request_for
    from pki import secretfiles
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    secrets = [write(one) for one in secretfiles.read_sealed(sealed)]
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        former = find_former(client, env, app, to=to)
        release, preview, answer = propose(
            client,
            former.bundle,
            request_for(former, reason=reason),
            client.signer(source),
            supersede=True,
            at=now(),
            say=common.say,
            sealed=secrets,
        )
    name = str(answer.get("id", ""))
    body = {
        "id": name,
        "plan": f"sha256:{release.plan_digest}",
        "seq": release.plan.seq,
        "to": former.plan.seq,
        "version": former.bundle.manifest.version,
        "warnings": list(preview.warnings),
    }
    text = (
        f"{name} {release.role} seq {release.plan.seq}: back to {former.bundle.manifest.version} "
        f"(seq {former.plan.seq})\nplan sha256:{release.plan_digest}\n"
        f"next: embrasure approve {name}"
    )
    common.emit("embrasure.rollout.rollback/1", body, text)
