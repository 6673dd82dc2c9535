"""Two network namespaces with a cable between them, and machines that can be started again.

A `boot` of the node's machine has its own boot id, as the kernel's file tells it: the product's
code reads the real path, over which another file is mounted in a mount namespace of that boot.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"),
    reason="needs root for network namespaces",
)
GATEWAY, NODE = "10.213.7.1", "10.213.7.2"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Network:
    """The cable; `gateway` and `node` are names of namespaces, `link` is the node's end of it."""

    gateway: str
    node: str
    link: str

    def inside(self, name: str, *command: str) -> list[str]:
        """Return the command that runs in one of the namespaces."""
        return ["ip", "netns", "exec", name, *command]

    def ask(self, port: int) -> str:
        """Return what the node's app says on its own loopback, "" for nothing."""
        code = (
            "import sys, urllib.request\n"
            "print(urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/', timeout=2)"
            ".read().decode())"
        )
        done = subprocess.run(
            self.inside(self.node, "/usr/bin/python3", "-c", code, str(port)),
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout.strip()


@contextmanager
def cable() -> Iterator[Network]:
    """Both namespaces, gone at the end."""
    tag = secrets.token_hex(3)
    found = Network(f"emg{tag}", f"emn{tag}", f"emv{tag}")
    with ExitStack() as held:
        for name in (found.gateway, found.node):
            ip("netns", "add", name)
            held.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", found.node, "link", "add", found.link, "type", "veth", "peer", "name", "cable",
           "netns", found.gateway)  # fmt: skip
        for name, link, address in (
            (found.gateway, "cable", GATEWAY),
            (found.node, found.link, NODE),
        ):
            ip("-n", name, "address", "add", f"{address}/30", "dev", link)
            ip("-n", name, "link", "set", link, "up")
        yield found


def booted(network: Network, folder: Path, command: Sequence[str]) -> list[str]:
    """Return what runs `command` in the node's namespace, in a boot of its own."""
    name = uuid.uuid4()
    file = folder / f"boot-{name}"
    file.write_text(f"{name}\n")
    mount = f'mount --make-rprivate / && mount --bind {file} {_BOOT_ID} && exec "$@"'
    return network.inside(network.node, "unshare", "--mount", "sh", "-c", mount, "sh", *command)
