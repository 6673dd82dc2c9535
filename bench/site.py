"""A push node and a pull node as they really run, for the measurements."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.integration.test_node_units import unit
from tests.simulate.along import sent_along
from tests.simulate.fleet import APP, RealNode, SimFleet
from tests.simulate.installer import SERVER, free_port, quick_http
from tests.simulate.production import in_production
from tests.simulate.push import Said, Serve
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.running import Running, children, running

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """Return the processor seconds that all threads of a process have used, ended ones too."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


def ended_children_cpu(pid: int) -> float:
    """Return the processor seconds of the children that a process has waited for (10 ms steps)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[13]) + int(words[14])) / _TICKS


def apps_cpu(pid: int) -> float:
    """Return the processor seconds of the children that run: of apply these are its apps."""
    return sum(cpu_of(child) for child in children(pid))


def memory_of(pid: int) -> dict[str, float]:
    """Return MiB of a process: VmRSS now, VmHWM at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(text.split()[0]) / 1024 for name, text in pairs}


def forget_peak(pid: int) -> None:
    """VmHWM counts from now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def release_of(version: str, *, files: int, size: int) -> SimRelease:
    """Return a release of many files of random bytes that are read, besides the small server."""
    chosen = random.Random(version)  # noqa: S311  # contents, no secret
    every = {
        "code/main.py": SERVER, "config/mode": b"good", "config/version": version.encode(),
        **{f"config/lib{n % 40}/file{n}.bin": chosen.randbytes(size) for n in range(files)},
    }  # fmt: skip
    return make_release(
        APP, every, version=version, argv=("python3", "code/main.py"), probes=[quick_http()]
    )


@dataclass(frozen=True, slots=True)
class Processes:
    """The two processes of one node."""

    apply: int
    fetch: int


class PushSite:
    """A fleet of one push node. production: each process by its unit, the app as its own user, in a
    folder that other users may pass.
    """

    def __init__(self, folder: Path, *, production: bool = False) -> None:
        self.fleet, self._in_production = SimFleet(folder), production
        make = partial(in_production, self.fleet) if production else self.fleet.make
        self.node: RealNode = make("n1", port=free_port())

    @contextmanager
    def run(self) -> Iterator[Processes]:
        """The node runs."""
        if self._in_production:
            with unit(self.node, "apply") as apply, unit(self.node, "fetch") as fetch:
                yield Processes(apply.pid, fetch.pid)
            return
        with running(self.node) as found:
            yield processes(found)

    def deploy(self, release: SimRelease, *, serve: Serve | None = None) -> Said:
        """Return what the node said to an order for the release; it ended in a commit."""
        repository = self.fleet.repository
        listed = repository.add_release(APP, release=release)
        plan = repository.set_plan(listed, canary=[self.node.listed], soak_s=0)
        gate = repository.set_gate(plan)
        repository.publish()
        envelope = self.fleet.order(self.node, plan, gate)
        ahead = sent_along(repository.files, env=plan.env, app=APP, manifest=release.digest)
        gateway = self.fleet.gateway(self.node)
        said = asyncio.run(gateway.order(envelope, serve=serve, ahead=ahead))
        if len(said.receipts) != 2:
            raise SystemExit(f"not installed: {said.refusals} {said.details}")
        return said

    def installed(self) -> Path:
        """Return the folder of the release that runs."""
        return self.node.paths.current(APP).resolve()


def processes(found: Running) -> Processes:
    """Return the process ids of a node that runs."""
    return Processes(found.pid("node.apply_main"), found.pid("node.agent"))


def imports_of(modules: Sequence[str]) -> float:
    """Return the MiB of a new process that has imported these modules, as a node's does."""
    code = (
        "import sys\nfrom node import bare\nbare.leave_out()\n"
        + "".join(f"import {name}\n" for name in modules)
        + "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )  # fmt: skip
    return int(done.stdout) / 1024


def child_cpu(command: Sequence[str], *, cwd: Path) -> float:
    """Return the processor seconds of a command and of all that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def plain_tools(tree: Path, folder: Path) -> Mapping[str, float]:
    """Return what `cp -a` of the tree, `sha256sum` of every file of the copy, and `rm -r` of it
    cost, in seconds, on the same disk.
    """
    copy = folder / "copy"
    copied = child_cpu(["cp", "-a", str(tree), str(copy)], cwd=folder)
    every = ["sh", "-c", "find . -type f -print0 | xargs -0 sha256sum"]
    hashed = child_cpu(every, cwd=copy)
    subprocess.run(["chmod", "-R", "u+w", str(copy)], check=True)
    removed = child_cpu(["rm", "-r", str(copy)], cwd=folder)
    return {"cp": copied, "sha256sum": hashed, "rm": removed}
