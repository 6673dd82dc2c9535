"""Answers of the gateway as people and programs see them; their shape is checked, not believed."""

from __future__ import annotations

from collections.abc import Mapping


def body_of(found: Mapping[str, object]) -> dict[str, object]:
    """Return an answer without its schema, which the command line writes itself."""
    return {name: value for name, value in found.items() if name != "schema"}


def rows_of(found: Mapping[str, object], name: str) -> list[dict[str, object]]:
    """Return the list of objects called `name`; what is not an object is left out."""
    rows = found.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def part_of(found: Mapping[str, object], name: str) -> dict[str, object]:
    """Return the object called `name`, empty when it is none."""
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def words(value: object) -> str:
    """Return a list of words as text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
