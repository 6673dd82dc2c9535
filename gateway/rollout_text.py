"""A roll-out in lines for a terminal: the same words as in `--json`, no colour, no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embrasure.trust.plan import Plan
from gateway.preview import Preview

LISTED = 12  # ids of one wave shown in a preview


def status_text(found: Mapping[str, Any]) -> str:
    """Return the screen of `rollout status`."""
    lines = [
        f"roll-out {found['id']}  {found['env']}/{found['app']} seq {found['seq']}",
        f"plan     {found['plan']}",
        f"state    {found['state']}" + (f": {found['reason']}" if found["reason"] else ""),
        f"gate     {found['gate']['state']} at wave {found['gate']['open_wave']}, "
        f"attempt {found['attempt']}, number {found['gate']['gseq']}",
    ]
    lines += [_wave_line(wave) for wave in found["waves"]]
    for node in found["nodes"]:
        if node["state"] != "healthy" and (node["reason"] or node["state"] != "pending"):
            lines.append(_node_line(node))
            lines += [f"    {node['detail']}"] if node.get("detail") else []
            lines += [f"    | {line}" for line in node.get("log", [])]
    for place in found["mirrors"]:
        told = place["problem"] or f"shows version {place['version']}"
        lines.append(f"{place['kind']} {place['name']}: {told}")
    if found.get("problem"):
        lines.append(f"problem  {found['problem']}")
    return "\n".join([*lines, f"verdict  {found['verdict']}"])


def _wave_line(wave: Mapping[str, Any]) -> str:
    counted = counts_text(wave["counts"])
    return (
        f"wave     {wave['name']:<14} {wave['state']:<8} {counted or 'nobody'}; "
        f"evidence {wave['evidence']} of {wave['need']}"
    )


def _node_line(node: Mapping[str, Any]) -> str:
    reason = f": {node['reason']}" if node["reason"] else ""
    return f"  {node['node']} wave {node['wave']} {node['mode']} {node['state']}{reason}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Return counts in words; no two states are merged."""
    return ", ".join(f"{number} {state}" for state, number in counts.items())


def change_text(found: Mapping[str, Any]) -> str:
    """Return the one line that whoever follows sees when something changed."""
    waves = found["waves"]
    wave = waves[min(int(found["open_wave"]), len(waves) - 1)]
    reason = f" ({found['reason']})" if found["reason"] else ""
    return (
        f"{found['state']}{reason}, wave {wave['name']} {wave['state']}: "
        f"{counts_text(found['counts'])}"
    )


def end_text(found: Mapping[str, Any]) -> str:
    """Return the verdict for whoever followed, and what to do when it is a bad one."""
    verdict, name = str(found["verdict"]), found["id"]
    if found["state"] == "halted":
        return (
            f"{verdict}\nwhy: embrasure rollout status {name}"
            f"\nnext: embrasure rollout abort {name}, then propose a fixed release"
        )
    if found["state"] in ("rolled_back", "failed"):
        return f"{verdict}\nwhy: embrasure rollout status {name}\nnext: propose a fixed release"
    return verdict


def list_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Return one line for each roll-out, newest first."""
    if not found:
        return "no roll-outs"
    return "\n".join(
        f"{item['id']}  {item['env']}/{item['app']} seq {item['seq']}  {item['verdict']}"
        for item in found
    )


def preview_text(plan: Plan, preview: Preview) -> str:
    """Return who is in which wave, with what must be seen there."""
    lines = [f"{plan.env}/{plan.app}: {preview.total} nodes in {len(plan.waves)} waves"]
    for wave, members in zip(plan.waves, preview.members, strict=True):
        share = "named" if wave.percent == 0 else f"to {wave.percent} %"
        lines.append(
            f"  {wave.name:<14} {share:<9} {len(members)} nodes, {wave.need} of "
            f"{len(wave.nodes)} witnesses, soak {wave.soak_s} s, {wave.max_parallel} at once, "
            f"deadline {wave.deadline_s} s"
        )
        more = [f"and {len(members) - LISTED} more"] if len(members) > LISTED else []
        lines += [f"    {node}" for node in [*members[:LISTED], *more]]
    failure = plan.failure
    lines.append(
        f"  stops at: a failed canary, {failure.max_failed_pct} percent failed"
        + (f", {failure.max_failed} failed" if failure.max_failed else "")
        + f", fewer than {failure.min_reached_pct} percent reached"
    )
    lines.append(f"  approve by {plan.approve_by}, start by {plan.not_after}")
    return "\n".join([*lines, *(f"  warning: {line}" for line in preview.warnings)])
