"""One run of the demo: a folder of its own, the story, the verdicts, and a clean end."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from demo.fleet import Fleet, free_ports
from demo.processes import Processes
from demo.releases import Pace
from demo.report import Report
from demo.story import Story
from embrasure.errors import EmbrasureError

FULL = Pace(soak_s=1, push=5, pull=2)
FAST = Pace(soak_s=1, push=3, pull=1)


def play(*, as_json: bool, keep: bool, fast: bool) -> int:
    """Return 0 when the story came to its end and every verdict holds, else 1.

    Whatever happens, no process and no file stays behind, unless `keep`.
    """
    folder = Path(tempfile.mkdtemp(prefix="embrasure-demo-"))
    report = Report(as_json=as_json)
    processes = Processes(folder)
    fleet = Fleet(processes, "shop", ports=free_ports())
    former = signal.signal(signal.SIGTERM, _interrupt)
    stay = False
    try:
        Story(fleet, FAST if fast else FULL, report, keep).run()
        stay = keep and report.ok
    except EmbrasureError as problem:
        report.judge("the story came to its end", expected="yes", got="no")
        _explain(report, problem, processes)
    finally:
        signal.signal(signal.SIGTERM, former)
        if not stay:
            report.say("stopping every process, removing every file")
            processes.stop_all()
            shutil.rmtree(folder, ignore_errors=True)
    report.finish()
    if stay:
        _say_how(fleet)
    return 0 if report.ok else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _explain(report: Report, problem: EmbrasureError, processes: Processes) -> None:
    for line in problem.lines():
        report.say(line)
    for service in processes.services:
        report.say(f"--- end of {service.log.name}")
        for line in service.tail().splitlines():
            report.say(f"    {line}")


def _say_how(fleet: Fleet) -> None:
    living = [s.pid for s in fleet.processes.services if s.process.poll() is None]
    for line in (
        f"left running in {fleet.folder}",
        f"  look in:  embrasure status --context {fleet.context('anna')}",
        f"  stop it:  kill {' '.join(map(str, living))}; rm -r {fleet.folder}",
    ):
        print(line, file=sys.stderr)
