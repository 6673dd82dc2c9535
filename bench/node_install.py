"""What a node pays for an install, for a poll that finds nothing, and for doing nothing.

Run: python -m bench.node_install [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from bench.mirror import served
from bench.node_poll import poll
from bench.site import (
    Processes,
    PushSite,
    apps_cpu,
    cpu_of,
    ended_children_cpu,
    forget_peak,
    imports_of,
    memory_of,
    plain_tools,
    processes,
    release_of,
)
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from node.config import Server
from tests.simulate.disk import missing_need, mounted
from tests.simulate.fleet import SimFleet
from tests.simulate.hooks import kinds
from tests.simulate.installer import free_port
from tests.simulate.production import passable
from tests.simulate.releases import SimRelease
from tests.simulate.running import running

FILES, SIZE = 2_000, 20_000
FEW = 3  # files: what an install costs whatever its size
DISK_BYTES = 2 * 1024**3
# MiB, milliseconds and the ratio that the project promises.
IDLE = {"apply": 60.0, "fetch_push": 75.0, "fetch_pull": 60.0}
RATIO = 1.5
BESIDE = {"new": ("cp", "sha256sum"), "present": ("cp", "sha256sum"),
          "later": ("cp", "sha256sum", "rm")}  # fmt: skip
# Times a limit in a quick run, which looks for what became worse: others use the machine, and their
# load costs every system call, and every word between two processes, more.
BUSY = 1.4


def figure(name: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(f"figure: {name} = {value:.2f} {unit}", flush=True)


def idle(folder: Path) -> list[str]:
    """Print what nodes hold when nothing happens; return what is above its limit."""
    push, broken = PushSite(folder), dict[str, float]()
    with push.run() as node:
        time.sleep(1.0)
        broken["apply"], broken["fetch_push"] = resident(node.apply), resident(node.fetch)
    (folder / "pull").mkdir()
    fleet = SimFleet(folder / "pull")
    with served(fleet.folder / "m1", fleet.authority, fleet.repository) as mirror:
        server = Server(name="m1", address=mirror.address)
        pull = fleet.make("n1", mode="pull", port=free_port(), mirrors=(server,))
        mirror.upload()
        with running(pull) as found:
            time.sleep(3.0)  # it has polled, and waits
            broken["fetch_pull"] = resident(processes(found).fetch)
    for name, held in broken.items():
        figure(f"idle_rss_{name}", held, "MiB")
    figure("imports_rss_python", imports_of([]), "MiB")
    figure("imports_rss_apply", imports_of(["node.apply_main"]), "MiB")
    net = ["node.agent", "node.push", "embrasure.net.server", "embrasure.net.renewal"]
    figure("imports_rss_fetch_push", imports_of(net), "MiB")
    figure("imports_rss_fetch_pull", imports_of(["node.agent", "node.pull", "node.poster"]), "MiB")
    return [f"idle_rss_{name}: {held:.1f}, below {IDLE[name]} MiB"
            for name, held in broken.items() if held >= IDLE[name]]  # fmt: skip


def resident(pid: int) -> float:
    """Return the MiB that a process holds now."""
    return memory_of(pid)["VmRSS"]


def install(*, files: int, rounds: int, nodes: int, slack: float) -> list[str]:
    """Print what an install costs each process, beside `cp -a` and `sha256sum` of the same tree;
    return what is too much.

    `new`: one whose every byte comes over the stream; `present`: one of the same contents under a
    new version, whose blobs are here; `later`: a new one for which an old one of as many files
    goes, beside `rm -r` as well; and one of a few files. Each round is an install of each, then the
    plain tools on the tree that it left, and the median of the rounds counts: what slows the host
    down for a while slows both down. Of what apply starts the mean counts: the system tells it in
    steps as long as all of it. The nodes are of production, so the app is a user of its own;
    without bubblewrap of development, where each file is copied once more.
    rounds: of each node, each with contents that nobody has seen
    """
    production = "bubblewrap-root" in kinds()
    print(f"installed by a node of {'production' if production else 'development'}", flush=True)
    few, found = measured(files=files, rounds=rounds, nodes=nodes, production=production)
    figure("install_fixed_apply_cpu", median(cost.apply for cost in few) * 1000, "ms")
    figure("install_fixed_cpu", (median(c.own for c in few) + helpers_of(few)) * 1000, "ms")
    for part in BESIDE["later"]:
        every = [plain[part] for pairs in found.values() for _, plain in pairs]
        figure(f"install_{part}_cpu", median(every), "s")
    return [line for name, pairs in found.items() for line in told(name, pairs, slack)]


def told(name: str, pairs: Sequence[Pair], slack: float) -> list[str]:
    """Print the figures of one kind of install; return what is too much."""
    costs = [cost for cost, _ in pairs]
    helpers = helpers_of(costs)
    plain = [sum(every[part] for part in BESIDE[name]) for _, every in pairs]
    ratios = [(cost.own + helpers) / beside for cost, beside in zip(costs, plain, strict=True)]
    figure(f"install_{name}_apply_cpu", median(cost.apply for cost in costs), "s")
    figure(f"install_{name}_fetch_cpu", median(cost.fetch for cost in costs), "s")
    figure(f"install_{name}_helpers_cpu", helpers, "s")
    figure(f"install_{name}_ratio", median(ratios), "x")
    figure(f"install_{name}_ratio_least", min(ratios), "x")
    figure(f"install_{name}_ratio_most", max(ratios), "x")
    best = (min(cost.own for cost in costs) + helpers) / min(plain)
    figure(f"install_{name}_ratio_of_best", best, "x")
    figure(f"install_{name}_apply_peak", max(cost.apply_peak for cost in costs), "MiB")
    figure(f"install_{name}_fetch_peak", max(cost.fetch_peak for cost in costs), "MiB")
    if median(ratios) < RATIO * slack:
        return []
    return [f"install_{name}_ratio: {median(ratios):.2f}, below {RATIO * slack} x"]


def measured(
    *, files: int, rounds: int, nodes: int, production: bool
) -> tuple[list[Cost], dict[str, list[Pair]]]:
    """Return what installs of a few files cost, and those of each kind with the plain tools."""
    few, found = list[Cost](), {name: list[Pair]() for name in BESIDE}
    with ground() as folder:
        for name in (f"node{number}" for number in range(nodes)):
            (folder / name).mkdir(mode=0o755)
            site = PushSite(folder / name, production=production)
            with site.run() as node:
                time.sleep(1.0)
                some = [release_of(f"{name}.{n}", files=FEW, size=SIZE) for n in range(rounds + 1)]
                # The first one imports.
                few += [cost_of(site, node, release) for release in some][1:]
                for number in range(rounds):
                    whole = release_of(f"{name}.{number}.0", files=files, size=SIZE)
                    cost = cost_of(site, node, whole)
                    more = cost_of(site, node, again(whole, f"{name}.{number}.1"))
                    plain = plain_tools(site.installed(), folder)
                    found["new" if number < 2 else "later"].append((cost, plain))
                    found["present"].append((more, plain))
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
    return few, found


@contextmanager
def ground() -> Iterator[Path]:
    """Yield a folder that other users may pass, on a new ext4 where root can make one.

    An old one without a journal looks at each inode that was deleted in the last minutes before it
    takes one: then a file costs 20 times as much, whoever makes it.
    """
    with passable() as top:
        if missing_need():
            yield top
            return
        image = top / "disk"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        with mounted(image, top / "mounted") as disk:
            disk.chmod(0o755)
            yield disk


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds and most MiB of both processes in one install. helpers: seconds of what
    apply started for it and that has ended, as the prober; the app's own are not among them.
    """

    apply: float
    fetch: float
    helpers: float
    apply_peak: float
    fetch_peak: float

    @property
    def own(self) -> float:
        """Seconds of both processes."""
        return self.apply + self.fetch


def helpers_of(costs: Sequence[Cost]) -> float:
    """Return the seconds of what apply started, of one install of these."""
    return sum(cost.helpers for cost in costs) / len(costs)


Pair = tuple[Cost, Mapping[str, float]]


def cost_of(site: PushSite, node: Processes, release: SimRelease) -> Cost:
    """Return what the install of a release costs."""
    forget_peak(node.apply)
    forget_peak(node.fetch)
    before = cpu_of(node.apply), cpu_of(node.fetch)
    ended, apps = ended_children_cpu(node.apply), apps_cpu(node.apply)
    site.deploy(release)
    apply, fetch = cpu_of(node.apply) - before[0], cpu_of(node.fetch) - before[1]
    # The app that ran before has ended in it.
    helpers = max(0.0, ended_children_cpu(node.apply) - ended - apps)
    return Cost(
        apply, fetch, helpers, memory_of(node.apply)["VmHWM"], memory_of(node.fetch)["VmHWM"]
    )


def again(release: SimRelease, version: str) -> SimRelease:
    """Return the same contents under another version."""
    manifest = msgspec.structs.replace(release.manifest, version=version)
    raw = write(manifest)
    return SimRelease(manifest, raw, sha256_hex(raw), release.blobs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when something is above its limit, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; busy machine")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("idle", "poll"):
            (folder / part).mkdir()
        broken = idle(folder / "idle")
        broken += poll(folder / "poll", rounds=20 if quick else 60, slack=BUSY if quick else 1)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)
    broken += install(
        files=FILES, rounds=3, nodes=2 if quick else 6, slack=BUSY if quick else 1
    )  # fmt: skip
    for line in broken:
        print(f"above its limit: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
