"""Enrolment as one act: read statements, show them, draft, sign, and write the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from embrasure import fs, limits
from embrasure.clock import Clock
from embrasure.command import Common
from embrasure.errors import Denied, Misuse
from embrasure.fingerprint import groups, words
from pki import acting, enrol, signers, store
from pki.enrol import Checked
from pki.folder import TrustFolder
from pki.passphrase import PassphraseSource


def read_statements(trust: TrustFolder, files: Sequence[Path]) -> list[Checked]:
    """Return the statements, all checked; raises Refused for the first that does not hold."""
    checked = [
        enrol.check_statement(fs.read_file(file, limit=2 * limits.STATEMENT_BYTES), trust)
        for file in files
    ]
    ids = [one.statement.node for one in checked]
    if len(set(ids)) != len(ids):
        raise Misuse("statements", expected="each node once", got="a node twice")
    return checked


def introduce(one: Checked) -> str:
    """Return what a keyholder compares with the node's own screen."""
    said = one.statement
    return (
        f"node {said.node}: {said.mode}, environment {said.env}, epoch {said.epoch}, at {said.at}\n"
        f"  fingerprint  {groups(one.fingerprint)}\n"
        f"  in words     {words(one.fingerprint)}"
    )


def propose(
    trust: TrustFolder,
    checked: Sequence[Checked],
    *,
    labels: Mapping[str, str] | None,
    keys: Sequence[str],
    source: PassphraseSource,
    common: Common,
    clock: Clock,
) -> dict[str, object]:
    """The entries are drafted, signed with `keys`, in force when that is enough; return a report.

    Entries that are in force as they are need no draft.
    """
    made = enrol.add_nodes(trust, checked, labels=labels, clock=clock)
    if not made:
        return acting.report(trust, [], [])
    return acting.sign_and_merge(trust, made, keys, source, common=common, clock=clock)


def answer_all(
    trust: TrustFolder,
    checked: Sequence[Checked],
    out: Path | None,
    *,
    keys: Sequence[str],
    source: PassphraseSource,
    authority: PassphraseSource,
    clock: Clock,
) -> dict[str, str]:
    """Each node whose entry is in force has its answer in a file; return the files by node.

    authority: knows the passphrase of `ca/node.key`. Without a key to sign with, or with the draft
    still waiting, there is no answer yet.
    """
    if not keys:
        return {}
    uri = signers.as_uri(keys[0])
    signer = signers.open_signer(uri, source, purpose="security", root=trust.root_id)
    push = any(one.boot is not None for one in checked)
    issuer = trust.issuer("node", authority) if push else None
    written: dict[str, str] = {}
    for one in checked:
        try:
            raw = enrol.answer(trust, one, signer=signer, issuer=issuer, clock=clock)
        except Denied as problem:
            if problem.reason == "threshold":
                continue
            raise
        file = _answer_file(trust, one.statement.node, out, several=len(checked) > 1)
        store.make_folder(file.parent)
        fs.replace_file(file.parent, file.name, raw, mode=0o644)
        written[one.statement.node] = str(file)
    return written


def _answer_file(trust: TrustFolder, node: str, out: Path | None, *, several: bool) -> Path:
    if out is None:
        return trust.path / "enrolled" / f"{node}.json"
    return out / f"{node}.json" if several or out.is_dir() else out
