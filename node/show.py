"""What the node's verbs print: states and answers as JSON and as text."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from embrasure.errors import Unavailable
from node.answering import Deaf, NoSource, converse
from node.config import MEND
from node.ipc import to_apply
from node.messages import AnswerNote, Separation, StateNote, StatusAsk, TrustNote
from node.paths import Paths
from node.records import NodeRecords
from node.verify import Verified


def look(paths: Paths) -> tuple[StateNote, bool]:
    """Return where the node stands, and whether its agent runs."""
    try:
        with to_apply(paths) as channel:
            state = converse(channel, StatusAsk(), NoSource(), Deaf()).state
            if state is not None:
                return state, True
    except Unavailable as problem:
        # One that hangs up runs: it has no room, or is about to stop.
        return NodeRecords(paths).state(), problem.reason != "agent-not-running"
    return NodeRecords(paths).state(), True


def state_json(state: StateNote, *, is_running: bool) -> dict[str, object]:
    """Return the state as `embrasure.node.status/1`."""
    found: dict[str, object] = msgspec.to_builtins(state)
    del found["is"]
    return {**found, "agent": "running" if is_running else "not running"}


def state_text(state: StateNote, *, is_running: bool) -> str:
    """Return the state as a person reads it."""
    lines = [
        f"node {state.node} ({state.env}, {state.mode}, epoch {state.epoch})",
        f"agent {'running' if is_running else 'not running'}",
        f"timestamp {state.timestamp}, receipts {state.rseq}, order {state.oseq}",
    ]
    lines.append(separation_text(state.isolation))
    for one in state.trouble:
        lines.append(f"damaged, so that a start only serves: {one}; hint: {MEND}")
    if state.network:
        lines.append(f"network side: {state.network}")
    if state.maintenance:
        lines.append(f"takes no order: {state.maintenance}")
    for app in state.apps:
        release = f"release {app.seq} {app.manifest[:16]}" if app.manifest else "nothing installed"
        lines.append(f"{app.app}: {app.state}, {release}" + (f" ({app.detail})" * bool(app.detail)))
        if app.hold:
            lines.append(f"{app.app}: {app.hold}")
    return "\n".join(lines)


def separation_text(found: Separation) -> str:
    """Return how the node is separated from what it runs, as a person reads it."""
    where = "production" if found.production else "development"
    landlock = f"Landlock {found.landlock}" if found.landlock else "no Landlock"
    return f"{where}: sandbox {found.sandbox} (isolation {found.level}), {landlock}, {found.sync}"


def answers_json(answers: Sequence[AnswerNote], code: int) -> dict[str, object]:
    """Return the answers as `embrasure.node.apply/1`."""
    apps = [{"app": one.app, "kind": one.kind, "reason": one.reason} for one in answers]
    return {"apps": apps, "exit": code}


def answers_text(answers: Sequence[AnswerNote]) -> str:
    """Return the answers as a person reads them."""
    if not answers:
        return "nothing to do: the owner lets no app run here (apps.d is empty)"
    return "\n".join(
        f"{one.app or 'node'}: {one.kind}" + (f" ({one.reason})" if one.reason else "")
        for one in answers
    )


def verified_json(found: Sequence[Verified]) -> dict[str, object]:
    """Return what was compared as `embrasure.node.verify/1`."""
    apps = [
        {
            "app": one.app,
            "release": one.release,
            "version": one.version,
            "kept": one.kept,
            "drift": [{"path": drift.path, "what": drift.what} for drift in one.drift],
        }
        for one in found
    ]
    return {"apps": apps, "drift": sum(len(one.drift) for one in found)}


def verified_text(found: Sequence[Verified]) -> str:
    """Return what was compared as a person reads it."""
    lines = []
    for one in found:
        what = f"release {one.release}" if one.release else "nothing installed"
        what += " (kept)" if one.kept else ""
        lines.append(f"{one.app}: {what}: " + (f"{len(one.drift)} differ" if one.drift else "ok"))
        lines += [f"  {drift.what} {drift.path}" for drift in one.drift]
    return "\n".join(lines) or "no app is installed here"


def trust_json(found: TrustNote) -> dict[str, object]:
    """Return what `node trust --json` shows."""
    return {
        "taken": dict(found.taken),
        "missing": list(found.missing),
        "refused": dict(found.refused),
    }


def trust_text(found: TrustNote) -> str:
    """Return what `node trust` shows to a person."""
    lines = [f"{role} v{version} counts now" for role, version in sorted(found.taken.items())]
    lines += [f"{role}: not taken [{word}]" for role, word in sorted(found.refused.items())]
    lines += [f"missing: {path}" for path in found.missing]
    return "\n".join(lines) or "nothing newer"
