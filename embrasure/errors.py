"""Every error of the product, the sentence it says, and the exit code it ends with.

One form everywhere: `THING: expected X, got Y [E_REASON]`, what is untouched, a hint.
"""

from __future__ import annotations

MAX_SHOWN = 200  # characters of outside text in one sentence


def shown(text: object, limit: int = MAX_SHOWN) -> str:
    """Return `text` safe for a terminal or a log line.

    Control, bidi and zero-width code points, and spaces that are no space, appear as escapes; what
    is longer than `limit` characters is cut, and the cut is shown.
    """
    raw = text if isinstance(text, str) else str(text)
    safe = cut = raw[:limit]
    if not cut.isprintable():
        safe = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut
        )
    return safe if len(raw) <= limit else f"{safe}... ({len(raw)} characters)"


class EmbrasureError(Exception):
    """Something was not done; the sentence says what, and what still holds."""

    exit_code = 1
    default_reason = "internal"

    def __init__(
        self,
        thing: str,
        *,
        expected: str,
        got: object,
        untouched: str = "nothing was changed",
        hint: str = "",
        reason: str | None = None,
    ) -> None:
        self.thing = shown(thing)
        self.expected = expected
        self.got = shown(got)
        self.untouched = untouched
        self.hint = hint
        self.reason = reason if reason is not None else self.default_reason
        super().__init__(f"{self.thing}: expected {self.expected}, got {self.got}")

    @property
    def word(self) -> str:
        """The stable reason word shown to people and programs, such as `E_THRESHOLD`."""
        return "E_" + self.reason.upper().replace("-", "_")

    def lines(self) -> list[str]:
        """The error as a person reads it, without the program's name in front."""
        found = [f"{self} [{self.word}]", f"untouched: {self.untouched}"]
        return [*found, f"hint: {self.hint}"] if self.hint else found

    def as_json(self) -> dict[str, object]:
        """The error as a program reads it (`embrasure.error/1`)."""
        return {
            "schema": "embrasure.error/1",
            "code": self.exit_code,
            "reason": self.word,
            "thing": self.thing,
            "expected": self.expected,
            "got": self.got,
            "untouched": self.untouched,
            "hint": self.hint,
        }


class Failed(EmbrasureError):
    """What was asked for was tried and did not come out well (rolled back, halted, I/O)."""

    default_reason = "failed"


class Damaged(EmbrasureError):
    """Our own disk is not as we left it."""

    default_reason = "damaged"


class Misuse(EmbrasureError):
    """The caller asked for something that makes no sense: usage, configuration."""

    exit_code = 2
    default_reason = "usage"


class Denied(EmbrasureError):
    """Policy, role, approvals or a lock say no."""

    exit_code = 3
    default_reason = "denied"


class NotSupported(Denied):
    """A field is set whose rule is not built yet: refused, never ignored."""

    default_reason = "not-supported"


class Refused(EmbrasureError):
    """Something from outside did not hold: signature, threshold, digest, floor, expiry, form."""

    exit_code = 4
    default_reason = "refused"


class Unavailable(EmbrasureError):
    """Try again: unreachable, timed out, busy."""

    exit_code = 5
    default_reason = "unavailable"


class NotFound(Unavailable):
    """A source answered, and has no such file."""

    default_reason = "not-found"
