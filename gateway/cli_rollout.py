"""`embrasure rollout`: preview, start, watch and steer roll-outs; nothing here can approve one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embrasure.command import Common, common
from embrasure.errors import Misuse

if TYPE_CHECKING:
    from gateway.client import AdminClient

STATUS = "embrasure.rollout.status/1"
Verb = Callable[..., Any]

_id = click.argument("rollout", metavar="ID")
_reason = click.option("--reason", default="", help="Why; recorded and shown to everybody.")
_detach = click.option("--detach", is_flag=True, help="Print the id and do not follow.")


def _open(common: Common) -> AdminClient:
    from gateway.client import AdminClient

    return AdminClient.open(common.context, timeout_s=common.timeout_s)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--bundle", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@common
def rollout_plan(file: Path, bundle: Path, common: Common) -> None:
    """Preview the plan that FILE and a bundle would make: the real nodes of each wave.

    Nothing is sent but reads, and no number is taken: `release propose` makes the plan itself.

    \b
    Examples:
      embrasure rollout plan canary.toml --bundle out/
      embrasure rollout plan canary.toml --bundle out/ --json
    """
    from embrasure.bundle.folder import open_bundle
    from embrasure.clock import now
    from embrasure.config import read_toml
    from embrasure.trust.documents import Content
    from gateway.planfile import PlanFile
    from gateway.planner import draft_plan
    from gateway.rollout_text import preview_text

    request = read_toml(file, PlanFile, document="plan file")
    found = open_bundle(bundle)
    if found.manifest.app != request.app:
        raise Misuse("bundle", expected=f"a bundle of {request.app}", got=found.manifest.app)
    with _open(common) as client:
        grounds = client.grounds(request.env, request.app)
        plan, preview = draft_plan(
            request,
            policy=grounds.policy,
            entries=client.entries(request.env),
            seq=grounds.running.version + 1 if grounds.running else 1,
            root_id=grounds.root,
            content=Content(sha256=found.digest, length=len(found.raw)),
            proposer=client.context.person,
            now=now(),
        )
    waves = [
        {"name": wave.name, "percent": wave.percent, "need": wave.need, "nodes": list(members)}
        for wave, members in zip(plan.waves, preview.members, strict=True)
    ]
    line = f"embrasure release propose {bundle} --plan {file}"
    body = {"env": plan.env, "app": plan.app, "seq": plan.seq, "waves": waves, "next": line}
    text = f"{preview_text(plan, preview)}\n\nto propose it: {line}"
    common.emit("embrasure.rollout.plan/1", {**body, "warnings": list(preview.warnings)}, text)


@click.command()
@click.option("--plan", "digest", required=True, help="The whole digest, sha256:HEX.")
@_detach
@common
def rollout_start(digest: str, detach: bool, common: Common) -> int:
    """Publish exactly this approved plan and open its first wave; then follow it to its end.

    The plan is fetched and hashed here first. Starting it again is harmless.

    \b
    Examples:
      embrasure rollout start --plan sha256:3f9c...
      embrasure rollout start --plan sha256:3f9c... --detach --json
    """
    import re

    from embrasure.errors import Refused
    from embrasure.trust.canonical import sha256_hex
    from embrasure.trust.plan import parse_plan
    from embrasure.wire import admin_pb2 as wire

    plain = digest.removeprefix("sha256:")
    if re.fullmatch(r"[0-9a-f]{64}", plain) is None:
        raise Misuse(
            "--plan", expected="the whole digest, 64 hex digits", got=digest,
            hint="embrasure release show ID prints it",
        )  # fmt: skip
    with _open(common) as client:
        reply = client.call("Proposal", wire.ProposalQuery(id=plain[:16]))
        raw = bytes(reply.plan)
        if sha256_hex(raw) != plain:
            raise Refused("plan", expected=plain, got=sha256_hex(raw), reason="bad-hash")
        plan = parse_plan(raw)
        request = wire.StartRequest(env=plan.env, app=plan.app, plan=plain)
        client.json("StartRollout", request)
        return _finish(client, plain[:16], common, detach=detach)


def _finish(client: AdminClient, name: str, common: Common, *, detach: bool) -> int:
    """Follow a started roll-out and print how it ended; return its exit code."""
    from gateway.following import detach_hint, follow, read_status
    from gateway.rollout_text import end_text

    if detach:
        return _show(read_status(client, name), common, text=name, code=0)
    try:
        found = follow(client, name, common)
    except KeyboardInterrupt:
        common.say(detach_hint(name))
        raise
    return _show(found, common, text=end_text(found), code=int(found["exit"]))


def _show(found: dict[str, Any], common: Common, *, text: str, code: int) -> int:
    body = {key: value for key, value in found.items() if key != "schema"}
    common.emit(STATUS, body, text)
    return code


@click.command()
@_id
@click.option("--watch", is_flag=True, help="One line a change, until it settles.")
@common
def rollout_status(rollout: str, watch: bool, common: Common) -> None:
    """Show where a roll-out stands and why: waves, nodes, evidence, failure logs.

    \b
    Examples:
      embrasure rollout status 3f9c2a1b
      embrasure rollout status 3f9c2a1b --json
    """
    from gateway.following import follow, read_status
    from gateway.rollout_text import status_text

    with _open(common) as client:
        found = follow(client, rollout, common) if watch else read_status(client, rollout)
    _show(found, common, text=status_text(found), code=0)


@click.command()
@click.option("--env", default="", help="Only of this environment.")
@click.option("--app", default="", help="Only of this app.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@common
def rollout_list(env: str, app: str, limit: int, common: Common) -> None:
    """List roll-outs with their verdicts, newest first.

    \b
    Examples:
      embrasure rollout list
      embrasure rollout list --env prod --app shop --json
    """
    from embrasure.wire import admin_pb2 as wire
    from gateway.rollout_text import list_text

    with _open(common) as client:
        found: dict[str, Any] = dict(
            client.json("ListRollouts", wire.Query(env=env, app=app, limit=limit))
        )
    rows = found["rollouts"]
    common.emit("embrasure.rollout.list/1", {"rollouts": rows}, list_text(rows))


@click.command()
@_id
@common
def rollout_wait(rollout: str, common: Common) -> int:
    """Wait for the end of a roll-out; the exit code is its verdict (see --help of rollout).

    Halted counts as an end: it needs a person.

    \b
    Examples:
      embrasure rollout wait 3f9c2a1b
      embrasure rollout wait 3f9c2a1b --timeout 10m
    """
    with _open(common) as client:
        return _finish(client, rollout, common, detach=False)


def _act(method: str, rollout: str, common: Common, **fields: object) -> dict[str, Any]:
    from embrasure.wire import admin_pb2 as wire
    from gateway.following import read_status

    with _open(common) as client:
        client.json(method, wire.ActRequest(id=rollout, **fields))  # type: ignore[arg-type]  # its own fields
        return read_status(client, rollout)


@click.command()
@_id
@_reason
@common
def rollout_pause(rollout: str, reason: str, common: Common) -> None:
    """Hand out nothing new; nodes in flight finish and report.

    \b
    Examples:
      embrasure rollout pause 3f9c2a1b
      embrasure rollout pause 3f9c2a1b --reason "database is slow"
    """
    found = _act("PauseRollout", rollout, common, reason=reason)
    _show(found, common, text=str(found["verdict"]), code=0)


@click.command()
@_id
@common
def rollout_resume(rollout: str, common: Common) -> None:
    """Go on where it was paused; from halted only when its failure policy holds again.

    \b
    Examples:
      embrasure rollout resume 3f9c2a1b
      embrasure rollout resume 3f9c2a1b --json
    """
    found = _act("ResumeRollout", rollout, common)
    _show(found, common, text=str(found["verdict"]), code=0)


@click.command()
@_id
@_reason
@_detach
@common
def rollout_abort(rollout: str, reason: str, detach: bool, common: Common) -> int:
    """End a roll-out for good: nothing new starts, nodes in flight are judged.

    Exit 0: the release runs nowhere. Exit 1: it stays on some nodes, which are named.

    \b
    Examples:
      embrasure rollout abort 3f9c2a1b --reason "wrong build"
      embrasure rollout abort 3f9c2a1b --detach
    """
    from gateway.following import follow

    found = _act("AbortRollout", rollout, common, reason=reason)
    if not detach:
        with _open(common) as client:
            found = follow(client, rollout, common)
    done = detach or found["state"] in ("rolled_back", "aborted")
    return _show(found, common, text=str(found["verdict"]), code=0 if done else 1)


@click.command()
@_id
@click.option("--failed", is_flag=True, help="Nodes whose install failed; costs an attempt.")
@click.option("--unreachable", is_flag=True, help="Nodes that were away.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="This node.")
@_detach
@common
def rollout_retry(
    rollout: str,
    failed: bool,
    unreachable: bool,
    nodes: tuple[str, ...],
    detach: bool,
    common: Common,
) -> int:
    """Try again on nodes that are not done; healthy nodes stay. At most 3 attempts a plan.

    \b
    Examples:
      embrasure rollout retry 3f9c2a1b --failed
      embrasure rollout retry 3f9c2a1b --unreachable --node n-aaaa...
    """
    if not (failed or unreachable or nodes):
        raise Misuse("retry", expected="--failed, --unreachable or --node NODE", got="none")
    _act("RetryRollout", rollout, common, failed=failed, unreachable=unreachable, nodes=list(nodes))
    with _open(common) as client:
        return _finish(client, rollout, common, detach=detach)
