"""`embrasure demo`: build a fleet on loopback, tell the story, judge it, leave nothing behind."""

from __future__ import annotations

import click

from embrasure.command import Common, common


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running and say how to look in.")
@click.option("--fast", is_flag=True, help="3 push nodes and 1 pull node.")
@common
def demo(common: Common, *, keep: bool, fast: bool) -> int:
    """Run the whole product on this machine as real processes, and check its claims.

    \b
    Examples:
      embrasure demo
      embrasure demo --fast --json
    """
    from demo.play import play

    return play(as_json=common.json, keep=keep, fast=fast)
