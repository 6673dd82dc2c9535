"""Skips: counted in every run, and in CI none but those of the committed list `may_skip.txt`.

A machine of CI can be given every package, and is root's: what needs root, or a loop device, runs
there or fails the run. A test that vanishes in green proves nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("may_skip.txt")
WHO = ("any", "not-root")


def allowed(text: str, *, is_root: bool) -> tuple[str, ...]:
    """Return how the reasons begin that may be given; raises ValueError for a strange line."""
    found = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        who, _, reason = line.partition(": ")
        if who not in WHO or not reason:
            raise ValueError(f"{LIST.name}: expected `WHO: REASON`, got {line}")
        if who == "any" or not is_root:
            found.append(reason)
    return tuple(found)


def reason_of(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def tell(reporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped and why: a skip that nobody sees is a test less."""
    skipped = reporter.stats.get("skipped", [])
    reporter.write_line(f"skipped tests: {len(skipped)}")
    for reason, count in sorted(Counter(map(reason_of, skipped)).items()):
        reporter.write_line(f"  {count} x {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a CI run that skipped what is not on the list."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI") or exitstatus:
        return
    may = allowed(LIST.read_text(), is_root=os.geteuid() == 0)
    found = [reason_of(report) for report in reporter.stats.get("skipped", [])]
    if not all(reason.startswith(may) for reason in found):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
