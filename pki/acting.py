"""What the verbs of the security team share: show a change, sign it, put it in force, tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import click

from embrasure.clock import Clock
from embrasure.command import Common, screen
from embrasure.errors import Denied, EmbrasureError, Misuse
from embrasure.fingerprint import words
from embrasure.trust.layout import ROOT
from pki import environment, keyfile, signers, signing
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfacts import Opened
from pki.keyfile import Cost
from pki.passphrase import PassphraseSource
from pki.signing import Review

NOTHING = "nothing to sign"
COSTS = {"moderate": keyfile.MODERATE, "sensitive": keyfile.SENSITIVE}


def cost_of(name: str | None, *, purpose: keyfile.Purpose) -> Cost:
    """Return the cost of a passphrase guess: as asked for, else high for offline keys."""
    if name is not None:
        return COSTS[name]
    return keyfile.SENSITIVE if purpose in ("security", "ca") else keyfile.MODERATE


def pairs(texts: Sequence[str], *, flag: str) -> dict[str, str]:
    """Return `k=v` arguments as a mapping; raises Misuse."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in found:
            raise Misuse(flag, expected="NAME=VALUE, each name once", got=text)
        found[name] = value
    return found


def show(reviewed: Review) -> None:
    """The whole change is on stderr; no flag hides it."""
    click.echo(screen(reviewed.text), err=True)


def confirm(reviewed: Review, given: Collection[str], common: Common) -> None:
    """Return only when the signer has confirmed this very digest; raises Denied.

    given: full digests from the command line, the only way without a terminal
    """
    digest, thing = reviewed.draft.digest, f"{reviewed.draft.role} v{reviewed.draft.version}"
    if digest in given:
        return
    if given:
        raise Denied(thing, expected=f"--confirm-digest {digest}", got="another digest")
    if common.no_input:
        raise Denied(
            thing,
            expected="a confirmation",
            got="no terminal",
            hint=f"read the change above, then add --confirm-digest {digest}",
            reason="no-input",
        )
    typed = click.prompt(f"type the first 8 digits of the digest to sign {thing}", err=True)
    if str(typed).strip().lower() != digest[:8]:
        raise Denied(thing, expected=digest[:8], got=typed)


def sign_with(reviewed: Review, opened: Opened, uri: str, common: Common) -> Path:
    """The draft has this key's signature; the key now serves this fleet and no other."""
    file = signing.sign(reviewed, opened)
    try:
        if signers.bind(uri, opened, reviewed.base.root_id):
            common.say(f"{uri} now signs for fleet {reviewed.base.root_id[:16]} only")
    except EmbrasureError as problem:
        # A key file or record on a medium that cannot be written: the signature stands.
        common.say(f"warning: {uri} could not be bound to its fleet: {problem}")
    return file


def sign_and_merge(
    trust: TrustFolder,
    made: Sequence[Draft],
    keys: Sequence[str],
    source: PassphraseSource,
    *,
    common: Common,
    clock: Clock,
) -> dict[str, object]:
    """Sign the drafts with every key of `keys` and put in force what has enough; return a report.

    Without keys the drafts wait for `trust sign`.
    """
    only = {draft.role for draft in made}
    shown: set[str] = set()
    for uri in [signers.as_uri(text) for text in keys]:
        opened = signers.open_key(uri, source, purpose="security", root=trust.root_id)
        reviewed = [
            signing.review(draft, pinned=trust.root_id, at=clock())
            for draft in trust.drafts()
            if draft.role in only
        ]
        mine = [one for one in reviewed if signing.may_sign(one, opened.header)]
        for one in mine or reviewed:
            # By digest: another draft that took its place meanwhile is shown as well.
            if one.draft.digest not in shown:
                show(one)
                shown.add(one.draft.digest)
            sign_with(one, opened, uri, common)
    merged, waiting = signing.merge_ready(trust, at=clock(), only=only) if keys else ([], [])
    return report(trust, merged, waiting)


def report(trust: TrustFolder, merged: list[str], waiting: list[str]) -> dict[str, object]:
    """Return what `--json` shows after drafts were made, signed or merged."""
    return {
        "root": trust.root_id,
        "in_force": trust.roles(),
        "merged": merged,
        "waiting": waiting,
        "drafts": [draft_json(trust, draft) for draft in trust.drafts()],
    }


def draft_json(trust: TrustFolder, draft: Draft) -> dict[str, object]:
    """Return what is known of an open draft."""
    needed, signed, others = signing.missing(trust, draft)
    return {
        "role": draft.role,
        "version": draft.version,
        "digest": draft.digest,
        "missing": needed,
        "signed": signed,
        "may_sign": others,
    }


def as_text(found: Mapping[str, object], trust: TrustFolder) -> str:
    """Return the report for a person."""
    lines = [f"in force: {line}" for line in _strings(found["merged"])]
    for draft in trust.drafts():
        needed, signed, others = signing.missing(trust, draft)
        state = f"{needed} more of {', '.join(others)}" if needed else "ready to merge"
        by = f", signed by {', '.join(signed)}" if signed else ""
        lines.append(f"draft: {draft.role} v{draft.version}{by}: {state}")
    if trust.drafts():
        lines.append(f"next: embrasure trust sign {trust.path} --key keyfile:FILE")
    elif ROOT in trust.roles():
        lines += [f"fleet {trust.root_id}", f"in words: {words(trust.root_id)}"]
    return "\n".join(lines)


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def first_environment(
    trust: TrustFolder,
    env: str,
    *,
    keys: Sequence[str],
    source: PassphraseSource,
    cost: Cost,
    common: Common,
    clock: Clock,
) -> None:
    """An environment with the usual values is in force, signed with `keys` made just now here.

    min_isolation 0: nodes in development count, too, and every signer is warned of it.
    """
    with trust.lock():
        made = environment.add_environment(
            trust, env, gateways=("g1",), shards=1, min_isolation=0, source=source, cost=cost,
            clock=clock,
        )  # fmt: skip
        sign_and_merge(trust, made, keys, source, common=common, clock=clock)
