"""The memory that an install of one very large file takes, in each process of a push node.

Run: python -m bench.node_memory [--quick]
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench.node_install import figure
from bench.site import PushSite, forget_peak, memory_of, release_of
from embrasure import limits
from embrasure.bundle.manifest import Entry
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.documents import write
from embrasure.trust.layout import blob_file
from embrasure.wire import node_pb2 as wire
from tests.simulate.push import pieces
from tests.simulate.releases import SimRelease

ABOVE_IDLE_MIB = 80.0
_PIECE = bytes(limits.FRAME_BODY_BYTES)


def zeros(length: int) -> Iterator[bytes]:
    """Yield a file of zeros: it costs us nothing, and the node as much as any other."""
    for start in range(0, length, len(_PIECE)):
        yield _PIECE[: min(len(_PIECE), length - start)]


def with_large(release: SimRelease, length: int) -> tuple[SimRelease, str]:
    """Return the release with one file of zeros more, and that file's digest."""
    hashed = hashlib.sha256()
    for piece in zeros(length):
        hashed.update(piece)
    digest = hashed.hexdigest()
    entry = Entry(
        path="config/zeros", kind="file", mode="0444", length=length, sha256=digest, target=None
    )
    files = tuple(sorted((*release.manifest.files, entry), key=lambda one: one.path))
    manifest = msgspec.structs.replace(release.manifest, files=files)
    raw = write(manifest)
    return SimRelease(manifest, raw, sha256_hex(raw), release.blobs), digest


def measure(folder: Path, *, length: int) -> list[str]:
    """Print the peak of each process above what it held before; return what is too much."""
    site, broken = PushSite(folder), list[str]()
    release, digest = with_large(release_of("2.0", files=1, size=10), length)
    path = blob_file(digest)

    def serve(want: wire.Want) -> Iterator[wire.FromGateway]:
        if want.path != path:
            yield from pieces(site.fleet.repository.files, want)
            return
        at = want.offset
        for body in zeros(length - want.offset):
            yield wire.FromGateway(data=wire.Data(want=want.id, offset=at, body=body))
            at += len(body)
        yield wire.FromGateway(end=wire.End(want=want.id, status="ok", length=at - want.offset))

    with site.run() as node:
        site.deploy(release_of("1.0", files=1, size=10))
        time.sleep(1.0)
        held = {"apply": node.apply, "fetch": node.fetch}
        before = {name: memory_of(pid)["VmRSS"] for name, pid in held.items()}
        for pid in held.values():
            forget_peak(pid)
        began = time.monotonic()
        site.deploy(release, serve=serve)
        took = time.monotonic() - began
        figure("large_file", length / limits.MIB, "MiB")
        figure("large_file_took", took, "s")
        for name, pid in held.items():
            above = memory_of(pid)["VmHWM"] - before[name]
            figure(f"large_file_{name}_above_idle", above, "MiB")
            if above >= ABOVE_IDLE_MIB:
                broken.append(f"large_file_{name}: {above:.1f}, below {ABOVE_IDLE_MIB} MiB")
        if (site.installed() / "config/zeros").stat().st_size != length:
            raise SystemExit("not the whole file")
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when a process took more than its limit, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="256 MiB in place of 1 GiB")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as name:
        broken = measure(Path(name), length=(256 * limits.MIB) if quick else limits.GIB)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)
    for line in broken:
        print(f"above its limit: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
