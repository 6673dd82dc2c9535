"""What an approver reads before signing: everything that changes, in one fixed order.

Pure text out of what was verified on this machine; every word from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuf.api.metadata import Targets

from embrasure.bundle.diff import describe, diff, render
from embrasure.clock import write_time
from embrasure.errors import shown
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import ApprovalStatement
from gateway.grounds import Grounds
from gateway.metadata import read_metadata
from gateway.preview import Preview
from gateway.releases import Release
from gateway.secrets import NO_SECRETS, Fit


@dataclass(frozen=True, slots=True)
class Review:
    """One proposal, worked out again here.

    said: verified statements, the proposer's first; text: what was shown; sha256: of that text;
    secrets: who could open them
    """

    release: Release
    grounds: Grounds
    preview: Preview
    said: tuple[ApprovalStatement, ...]
    text: str
    secrets: Fit = NO_SECRETS

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text, which the statement names."""
        return sha256_hex(self.text.encode("utf-8"))

    @property
    def approvers(self) -> list[str]:
        """Who says that he has signed; nodes count signatures, not this."""
        return sorted({said.person for said in self.said if said.decision == "approve"})


def review_text(
    release: Release,
    grounds: Grounds,
    preview: Preview,
    said: Sequence[ApprovalStatement],
    changes: Sequence[str],
    secrets: Fit = NO_SECRETS,
) -> str:
    """Return the whole screen: who, where, what, how, until when, who signed; digests last.

    changes: the text differences of `gateway.textdiff`; secrets: `gateway.secrets.fit`
    """
    found = diff(grounds.running.manifest if grounds.running else None, release.manifest)
    parts = [
        _who(release, grounds),
        _section("what changes", render(found).splitlines()),
        _section("text", changes),
        _section("how it runs", describe(release.manifest)),
        _section("secrets", secrets.lines),
        _section("waves", _waves(release, preview)),
        _section("look twice", [*preview.warnings, *secrets.warnings]),
        _section("rules of this plan", _rules(release)),
        _section("who decides", _deciders(release, grounds, said)),
        _section("what is signed", _digests(release, grounds)),
    ]
    return "\n\n".join(part for part in parts if part)


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)]) if lines else ""


def _who(release: Release, grounds: Grounds) -> str:
    plan, running = release.plan, grounds.running
    group = ", ".join(f"{k}={v}" for k, v in sorted(plan.group.items())) or "the whole environment"
    now = "nothing yet"
    if grounds.orphaned:
        now = "WARNING: what is published no longer has its signatures, so all is shown as new"
    if running:
        now = f"{shown(running.manifest.version)} (seq {running.plan.seq}, sha256:" \
              f"{running.plan.manifest.sha256[:16]})"  # fmt: skip
    return "\n".join(
        [
            f"{plan.proposer} proposes {release.app} {shown(release.manifest.version)} "
            f"for {release.env}: {shown(plan.title)}",
            *([f"comment: {shown(plan.comment, 500)}"] if plan.comment else []),
            f"group: {group}",
            f"runs now: {now}",
            f"would run: {shown(release.manifest.version)} (seq {plan.seq}, "
            f"sha256:{plan.manifest.sha256[:16]})",
        ]
    )


def _waves(release: Release, preview: Preview) -> list[str]:
    lines = []
    for number, wave in enumerate(release.plan.waves):
        members = preview.members[number]
        names = ", ".join(members[:8]) + (f" and {len(members) - 8} more" if members[8:] else "")
        share = "by name" if number == 0 else f"up to {wave.percent} %"
        match = "".join(f", {k}={v}" for k, v in sorted(wave.match.items()))
        lines.append(
            f"{number} {shown(wave.name)}: {len(members)} nodes ({share}{match}), "
            f"{wave.max_parallel} at once, soak {wave.soak_s} s, deadline {wave.deadline_s} s, "
            f"{wave.need} of {len(wave.nodes)} named nodes must prove it: {names or 'none today'}"
        )
    return lines


def _rules(release: Release) -> list[str]:
    plan = release.plan
    failure = plan.failure
    most = f", at {failure.max_failed} in all" if failure.max_failed else ""
    settings = [f"setting {k} = {shown(v)}" for k, v in sorted(plan.settings.items())]
    return [
        f"stops at the first failed canary, at {failure.max_failed_pct} % failed of a wave or of "
        f"all{most}, and when fewer than {failure.min_reached_pct} % are reached",
        f"a failed node goes back by itself; at most {plan.max_attempts} tries a node; "
        f"with nothing to go back to: {failure.on_no_target}",
        "way back named in the plan: " + ("yes" if plan.fallback else "none"),
        f"approve before {plan.approve_by}, start before {plan.not_after}",
        *settings,
    ]


def _deciders(release: Release, grounds: Grounds, said: Sequence[ApprovalStatement]) -> list[str]:
    running = grounds.running
    signed = read_metadata(release.role_raw, Targets, release.role).signed
    was = f", now {write_time(running.targets.expires)}" if running else ""
    words = [f"{word.decision} by {word.person} at {word.at}" for word in said]
    people = ", ".join(person for person in grounds.people() if person != release.plan.proposer)
    return [
        f"{grounds.needs()} of: {people} (never {release.plan.proposer}, who proposed)",
        *_groups(release, grounds),
        f"role {release.role} v{release.version} holds until {write_time(signed.expires)}{was}",
        *words,
    ]


def _groups(release: Release, grounds: Grounds) -> list[str]:
    """Say who can fill each quota; one who is in two groups fills one place."""
    persons, found = grounds.people(), []
    for group, count in grounds.quotas().items():
        held = [p.id for p in grounds.policy.people if group in p.groups and p.id in persons]
        able = ", ".join(name for name in held if name != release.plan.proposer) or "nobody"
        found.append(f"quota {group}: {count} of {able}")
    return found


def _digests(release: Release, grounds: Grounds) -> list[str]:
    return [
        f"role     sha256:{release.sha256}",
        f"manifest sha256:{release.plan.manifest.sha256}",
        f"policy   sha256:{grounds.policy_digest}",
        f"fleet    {grounds.root}",
        f"plan     sha256:{release.plan_digest}",
    ]
