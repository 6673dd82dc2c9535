"""What a node pays for an install, for a poll that finds nothing, and for doing nothing.

Run: python -m bench.node_install [--quick]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from bench.cost import spent
from bench.mirror import served
from bench.site import (
    Processes,
    PushSite,
    copying_and_hashing,
    cpu_of,
    forget_peak,
    imports_of,
    memory_of,
    processes,
    release_of,
)
from embrasure.net.https import MirrorSource
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from node.config import Server
from tests.simulate.authority import Authority
from tests.simulate.disk import missing_need, mounted
from tests.simulate.fleet import SimFleet
from tests.simulate.hooks import kinds
from tests.simulate.installer import SimInstaller, free_port
from tests.simulate.listener import trust_from
from tests.simulate.production import passable
from tests.simulate.releases import SimRelease
from tests.simulate.running import running

FILES, SIZE = 2_000, 20_000
FEW = 3  # files: what an install costs whatever its size
DISK_BYTES = 2 * 1024**3
# MiB, milliseconds and the ratio that the project promises.
IDLE = {"apply": 60.0, "fetch_push": 75.0, "fetch_pull": 60.0}
RATIO = 1.5
# Most of a tenth of the files is what does not grow: metadata, the start, probes; and two ticks.
QUICK_SLACK = 12
POLL_MS = {"with_handshake": 15.0, "without_handshake": 2.0}


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


def install(*, files: int, rounds: int, slack: float) -> list[str]:
    """Print what an install costs each process, beside `cp -a` and `sha256sum` of the same tree;
    return what is too much.

    A first one, whose every byte comes over the stream, one of the same contents under a new
    version, whose blobs are here, and one of a few files. The best of some rounds counts: other
    work only adds. The node is one of production, so the app is a user of its own; without
    bubblewrap one of development, where each file is copied once more.
    rounds: each with contents that nobody has seen
    """
    broken = list[str]()
    production = "bubblewrap-root" in kinds()
    print(f"installed by a node of {'production' if production else 'development'}", flush=True)
    with ground() as folder:
        site = PushSite(folder, production=production)
        with site.run() as node:
            time.sleep(1.0)
            found: dict[str, list[Cost]] = {"new": [], "present": []}
            for number in range(rounds):
                whole = release_of(f"{number}.0", files=files, size=SIZE)
                for name, release in (("new", whole), ("present", again(whole, f"{number}.1"))):
                    found[name].append(cost_of(site, node, release))
            plain = copying_and_hashing(site.installed(), folder)
            few = [release_of(f"few.{n}", files=FEW, size=SIZE) for n in range(rounds)]
            fixed = [cost_of(site, node, release) for release in few]
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
    figure("install_fixed_apply_cpu", min(cost.apply for cost in fixed) * 1000, "ms")
    figure("install_fixed_cpu", min(cost.apply + cost.fetch for cost in fixed) * 1000, "ms")
    for part, seconds in plain.items():
        figure(f"install_{part}_cpu", seconds, "s")
    for name, costs in found.items():
        best, both = min(costs, key=lambda cost: cost.apply + cost.fetch), sum(plain.values())
        ratio = (best.apply + best.fetch) / both
        figure(f"install_{name}_apply_cpu", best.apply, "s")
        figure(f"install_{name}_fetch_cpu", best.fetch, "s")
        figure(f"install_{name}_ratio", ratio, "x")
        figure(f"install_{name}_apply_peak", max(cost.apply_peak for cost in costs), "MiB")
        figure(f"install_{name}_fetch_peak", max(cost.fetch_peak for cost in costs), "MiB")
        if ratio >= RATIO * slack:
            broken.append(f"install_{name}_ratio: {ratio:.2f}, below {RATIO * slack} x")
    return broken


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
    """Processor seconds and most MiB of both processes in one install."""

    apply: float
    fetch: float
    apply_peak: float
    fetch_peak: float


def cost_of(site: PushSite, node: Processes, release: SimRelease) -> Cost:
    """Return what the install of a release costs."""
    forget_peak(node.apply)
    forget_peak(node.fetch)
    before = cpu_of(node.apply), cpu_of(node.fetch)
    site.deploy(release)
    apply, fetch = cpu_of(node.apply) - before[0], cpu_of(node.fetch) - before[1]
    return Cost(apply, fetch, memory_of(node.apply)["VmHWM"], memory_of(node.fetch)["VmHWM"])


def again(release: SimRelease, version: str) -> SimRelease:
    """Return the same contents under another version."""
    manifest = msgspec.structs.replace(release.manifest, version=version)
    raw = write(manifest)
    return SimRelease(manifest, raw, sha256_hex(raw), release.blobs)


def poll(folder: Path, *, rounds: int, slack: float) -> list[str]:
    """Print what a poll costs that finds nothing new, over real HTTPS; return what is too much.

    All of a pull node's own work, in one process: its source, its verification, its decision.
    slack: how many times its limit it may cost on a machine that others use
    """
    node = SimInstaller(folder)
    authority, broken = Authority(), list[str]()
    node.publish("1.0")
    if node.poll() != "committed":
        raise SystemExit("not installed")
    with served(folder / "m1", authority, node.repo) as mirror:
        trust = trust_from(authority)

        def one() -> None:
            with closing(MirrorSource(mirror.address, name="m1", trust=trust)) as source:
                if node.poll(source) != "none done":
                    raise SystemExit("a poll that found something")

        one()
        costs = {"with_handshake": min(spent(one) for _ in range(rounds))}
        with closing(MirrorSource(mirror.address, name="m1", trust=trust)) as source:
            look = partial(node.poll, source)
            look()
            costs["without_handshake"] = min(spent(look) for _ in range(rounds))
    for name, seconds in costs.items():
        figure(f"noop_poll_{name}", seconds * 1000, "ms")
        if seconds * 1000 >= POLL_MS[name] * slack:
            broken.append(f"noop_poll_{name}: {seconds * 1000:.2f}, below {POLL_MS[name]} ms")
    node.close()
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when something is above its limit, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the files; busy machine")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("idle", "poll"):
            (folder / part).mkdir()
        broken = idle(folder / "idle")
        broken += poll(folder / "poll", rounds=40, slack=2 if quick else 1)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)
    if quick:
        broken += install(files=FILES // 10, rounds=1, slack=QUICK_SLACK)
    else:
        broken += install(files=FILES, rounds=3, slack=1)
    for line in broken:
        print(f"above its limit: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
