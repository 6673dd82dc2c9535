"""One group of verbs as a table of module and line of help; nothing of it is imported here."""

from __future__ import annotations

import click

from embrasure.command import LazyGroup


def verbs(group: str, modules: dict[str, dict[str, str]], text: str) -> LazyGroup:
    """Return a group; modules: module -> verb -> help line; the attribute is `group_verb`."""
    table: dict[str, tuple[str | click.Group, str]] = {}
    for module, found in modules.items():
        for verb, line in found.items():
            name = f"{group} {verb}".replace(" ", "_").replace("-", "_")
            table[verb] = (f"{module}:{name}", line)
    return LazyGroup(group.split()[-1], table, text)
