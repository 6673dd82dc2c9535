"""What the demo says: one line as each thing happens, and the verdict table at the end."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim of the product: what was expected, what was seen."""

    name: str
    expected: str
    got: str

    @property
    def ok(self) -> bool:
        """Whether the claim held."""
        return self.expected == self.got

    def as_json(self) -> dict[str, object]:
        """The verdict as a program reads it."""
        return {"name": self.name, "ok": self.ok, "expected": self.expected, "got": self.got}


@dataclass(slots=True)
class Report:
    """Lines on stderr while it runs; the result on stdout, as text or as one JSON object."""

    as_json: bool
    started: float = field(default_factory=time.monotonic)
    verdicts: list[Verdict] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.started

    def step(self, text: str) -> None:
        """Say that a part of the story begins."""
        self._line(f"\n[{self.seconds():5.1f}s] {text}")

    def say(self, text: str) -> None:
        """Say what happened."""
        self._line(f"         {text}")

    def judge(self, name: str, *, expected: object, got: object) -> bool:
        """Keep a verdict, say it, and return whether it holds."""
        verdict = Verdict(name, str(expected), str(got))
        self.verdicts.append(verdict)
        self.say(f"{'ok' if verdict.ok else 'FAILED':6} {name}: {verdict.got}")
        return verdict.ok

    @property
    def ok(self) -> bool:
        """Whether the demo came to its end and every verdict holds."""
        return bool(self.verdicts) and all(verdict.ok for verdict in self.verdicts)

    def finish(self) -> None:
        """Print the verdict table, or the JSON object and nothing else, on stdout."""
        if self.as_json:
            body = {
                "schema": "embrasure.demo/1",
                "verdicts": [verdict.as_json() for verdict in self.verdicts],
                "seconds": round(self.seconds(), 1),
                **self.facts,
                "ok": self.ok,
            }
            print(json.dumps(body))
            return
        rows = [("VERDICT", "expected", "got", "")]
        rows += [(v.name, v.expected, v.got, "ok" if v.ok else "FAILED") for v in self.verdicts]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
            print("  ".join([*cells, row[3]]).rstrip())
        held = sum(verdict.ok for verdict in self.verdicts)
        facts = " · ".join(f"{name} {value}" for name, value in self.facts.items())
        print(f"{held} of {len(self.verdicts)} hold · {self.seconds():.1f} s · {facts}")

    def _line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
