"""Write `docs/limits.md` from `embrasure/limits.py`; run it after every change of a limit."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from embrasure import limits

TOP = Path(__file__).resolve().parent.parent
SOURCE = TOP / "embrasure" / "limits.py"
DOCUMENT = TOP / "docs" / "limits.md"

_LIMIT = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*) = [^#]*?(?:\s+#\s*(?P<why>.*))?")
_UNITS = {
    "BYTES": "bytes",
    "CHARACTERS": "characters",
    "MILLISECONDS": "ms",
    "PERCENT": "%",
    "SECONDS": "s",
}
_SCALES = {"KIB", "MIB", "GIB"}
_HEAD = """# Limits

Every bound of the product, from `embrasure/limits.py`: made by `python -m tools.limits_doc`, tested
to be current. What goes beyond one is refused (`E_LIMIT`) before anything is parsed or stored.
"""


def document() -> str:
    """Return the whole page: one table for each section of the source."""
    parts = [_HEAD]
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            parts.append(f"\n## {line[2:]}\n\n| limit | value | why |\n|---|---|---|\n")
        elif (match := _LIMIT.fullmatch(line)) and match["name"] not in _SCALES:
            parts.append(row(match["name"], match["why"] or ""))
    return "".join(parts)


def row(name: str, why: str) -> str:
    """Return one line of a table."""
    return f"| `{name}` | {amount(name)} | {why.replace('|', '/')} |\n"


def amount(name: str) -> str:
    """Return the value with its unit, as a person says it."""
    value: int = getattr(limits, name)
    if name.endswith("BYTES_PER_SECOND"):
        return f"{value // limits.KIB} KiB/s"
    unit = next((_UNITS[word] for word in _words(name) if word in _UNITS), "")
    if unit == "bytes":
        for size, scale in ((limits.GIB, "GiB"), (limits.MIB, "MiB"), (limits.KIB, "KiB")):
            if value >= size and value % size == 0:
                return f"{value // size:,} {scale}"
    return f"{value:,} {unit}".strip()


def _words(name: str) -> Iterator[str]:
    yield from reversed(name.split("_"))


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT).write_text(document(), encoding="utf-8")
