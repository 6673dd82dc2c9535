"""`embrasure pki join`: a keyholder enrols a new node by its token; the gateway only relays."""

from __future__ import annotations

from pathlib import Path

import click

from embrasure.command import Common, common
from pki.options import passphrase_options, sign_option

_DIR = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("node", metavar="NODE")
@click.argument("folder", metavar="DIR", type=_DIR)
@click.option("--env", required=True, help="The environment.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Label (repeat).")
@click.option(
    "--ca-passphrase-file", type=_FILE, help="Passphrase of ca/node.key, if it is another one."
)
@sign_option
@passphrase_options
@common
def pki_join(
    common: Common,
    node: str,
    folder: Path,
    env: str,
    labels: tuple[str, ...],
    ca_passphrase_file: Path | None,
    sign: tuple[str, ...],
    passphrase_fd: int | None,
    passphrase_file: Path | None,
) -> None:
    """Enrol a node that was given a join token: check its MAC and its keys here, then its entry.

    Run where the token was minted. Run it again, within 24 hours, once all signatures are there:
    then the node gets its answer, with the trust files by which it verifies that. It is dialled
    where `fleet address` says.

    \b
    Examples:
      embrasure pki join n-... trust --env prod --sign alice.key --sign bob.key
      embrasure pki join n-... trust --env prod --label site=a --context alice/context.toml
    """
    from embrasure.clock import now
    from embrasure.fs import read_file
    from embrasure.limits import ENROLMENT_BYTES
    from embrasure.trust.carry import carried, for_node
    from gateway.client import AdminClient
    from gateway.join_steps import meet, send_answer
    from pki import acting, enrolment
    from pki.folder import TrustFolder
    from pki.passphrase import passphrase_source

    source = passphrase_source(fd=passphrase_fd, file=passphrase_file, no_input=common.no_input)
    trust = TrustFolder.open(folder)
    given = acting.pairs(labels, flag="--label") if labels else None
    with AdminClient.open(common.context, timeout_s=common.timeout_s) as client:
        met = meet(client, trust, env, node, clock=now)
        common.say(enrolment.introduce(met.checked))
        with trust.lock():
            found = enrolment.propose(
                trust, [met.checked], labels=given, keys=sign, source=source, common=common,
                clock=now,
            )  # fmt: skip
            authority = source
            if ca_passphrase_file is not None:
                authority = passphrase_source(fd=None, file=ca_passphrase_file, no_input=True)
            answers = enrolment.answer_all(
                trust, [met.checked], None, keys=sign, source=source, authority=authority,
                clock=now,
            )  # fmt: skip
            files = for_node(carried(trust.path), env=env, node=node) if answers else {}
        for file in answers.values():
            send_answer(client, met, read_file(Path(file), limit=ENROLMENT_BYTES), files)
    body = {**found, "node": node, "answered": bool(answers)}
    told = (
        "the node has its answer" if answers else "no answer yet: run this again when it is signed"
    )
    text = "\n".join(line for line in (acting.as_text(found, trust), told) if line)
    common.emit("embrasure.pki.join/1", body, text)
