"""systemd-run: each hook and exec probe is a transient unit, its end the end of its cgroup.

Only where systemd is the first process. Its properties are the lines of
`deploy/systemd/embrasure-hook.service`, which a test scores.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from embrasure import limits, sandbox
from embrasure.errors import Denied, Failed
from node.backends import Room, Started
from node.programs import find_program, system_python

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_TIDY_SECONDS = 10.0
_MIB = limits.MIB
# Said, for systemd-run would else describe the unit by its command. That goes into the unit's file
# as it is, line breaks too, and the next daemon-reload obeys those lines as root (systemd 252).
_DESCRIPTION = "--description=embrasure: one command of a release"
# A path that no list of paths splits or unquotes.
_PLAIN = re.compile(r"/[A-Za-z0-9._/+@-]*")
# The last step inside: whoever asks the manager is root, and its loader obeys an environment.
_SHOW = (
    "import os, sys\n"
    f"env = {{n[{len(sandbox.HIDDEN)}:]: v for n, v in os.environ.items() "
    f"if n.startswith({sandbox.HIDDEN!r})}}\n"
    "os.execve(sys.argv[1], sys.argv[1:], env)\n"
)
HOOK = (
    "KillMode=control-group", "SendSIGKILL=yes", "TimeoutStopSec=2", "RuntimeMaxSec=3600",
    f"MemoryMax={limits.HOOK_MEMORY_BYTES // _MIB}M", f"TasksMax={limits.HOOK_TASKS}",
    "CPUQuota=100%", "LimitCORE=0", "PrivateNetwork=yes", "IPAddressDeny=any",
    "RestrictAddressFamilies=AF_UNIX", "PrivateUsers=yes", "PrivateTmp=yes", "PrivateDevices=yes",
    "PrivateIPC=yes", "ProtectSystem=strict", "ProtectHome=yes", "ProtectProc=invisible",
    "ProcSubset=pid", "ProtectKernelTunables=yes", "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes", "ProtectControlGroups=yes", "ProtectClock=yes",
    "ProtectHostname=yes", "RestrictNamespaces=yes", "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes", "RemoveIPC=yes",
    "NoNewPrivileges=yes", "CapabilityBoundingSet=", "AmbientCapabilities=", "DevicePolicy=closed",
    "SystemCallArchitectures=native", "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources @chown @keyring @memlock",
    "SystemCallFilter=~socket io_uring_setup io_uring_enter io_uring_register",
    "SystemCallErrorNumber=EPERM", "UMask=0077",
    "KeyringMode=private", "InaccessiblePaths=-/var/lib/embrasure -/etc/embrasure",
    "TemporaryFileSystem=/opt/embrasure:ro /run/embrasure:ro",
)  # fmt: skip


class Transient:
    """Runs a command as a transient unit of the system's service manager."""

    name, level = "systemd-run", 2

    def __init__(self, program: str, control: str, python: str, prefix: Path = Path("/")) -> None:
        self._program, self._control, self._python = program, control, python
        # Two nodes of one host do not end each other's commands.
        self._node = hashlib.sha256(str(prefix).encode()).hexdigest()[:8]

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, room: Room, held: ExitStack
    ) -> Started:
        """Return how `argv` starts. Whoever asks the manager is the node itself.

        Raises Denied (`no-sandbox`) for a folder that systemd would take for another.
        """
        token = env["EMBRASURE_INSTANCE"]
        for path in (cwd, *room.read, *room.write):
            check_plain(path)
        # Doubled: systemd puts values of variables in place of single ones.
        words = [word.replace("$", "$$") for word in argv]
        seen = [f"BindReadOnlyPaths={path}" for path in room.read]
        seen += [f"BindPaths={path}" for path in room.write]
        seen += [f"ReadWritePaths={path}" for path in room.write]
        who = [] if room.user is None else [f"--uid={room.user.uid}", f"--gid={room.user.gid}"]
        return Started(
            [
                self._program, "--quiet", "--no-ask-password", "--wait", "--pipe", "--collect",
                "--service-type=exec", f"--unit={self._unit(token)}", _DESCRIPTION, *who,
                f"--working-directory={cwd}",
                *(f"--property={line}" for line in (*HOOK, *seen)),
                # A name alone: the value is taken out of the environment, never put into an argv.
                *(f"--setenv={name}" for name in sorted(sandbox.hidden(env))), "--",
                self._python, "-I", "-S", "-c", _SHOW, *words,
            ],
            is_wrapped=True, env=sandbox.hidden(env),
        )  # fmt: skip

    def ask(self, token: str) -> None:
        """Each process of the unit has SIGTERM; raises Failed."""
        self._tell(("kill", "--signal=SIGTERM"), self._unit(token))

    def end(self, token: str) -> None:
        """The unit's cgroup is empty: killed, then waited for; raises Failed."""
        self._end(self._unit(token))

    def clear(self) -> None:
        """What an earlier, killed node started does not live: unlike a child it outlives its node,
        and the release that recovery starts must not meet it. Raises Failed.
        """
        self._end(self._unit("*"))

    def _end(self, unit: str) -> None:
        self._tell(("kill", "--signal=SIGKILL"), unit)
        self._tell(("stop",), unit)

    def _tell(self, words: Sequence[str], unit: str) -> None:
        # One that has ended is unknown: that is no failure.
        try:
            subprocess.run(  # noqa: S603  # a fixed program, and a name of our own making
                [self._control, "--no-ask-password", *words, unit], env={},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIDY_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(
                "systemd", expected="an answer in time", got="none", reason="internal"
            ) from None

    def _unit(self, token: str) -> str:
        return f"embrasure-hook-{self._node}-{token}.service"


def check_plain(path: Path) -> None:
    """Return only for a path that systemd reads as it stands; raises Denied (`no-sandbox`)."""
    if not _PLAIN.fullmatch(str(path)):
        raise Denied(
            str(path), expected="a folder named by letters, digits and . _ + @ -", got="another",
            hint="systemd reads spaces and colons in a path as its own signs", reason="no-sandbox",
        )  # fmt: skip


def find(prefix: Path = Path("/")) -> Transient | None:
    """Return the back end of the node at `prefix`, None where systemd is not the first process."""
    program, control = find_program("systemd-run"), find_program("systemctl")
    python = system_python()
    if not _BOOTED.is_dir() or program is None or control is None or python is None:
        return None
    return Transient(program, control, python, prefix)
