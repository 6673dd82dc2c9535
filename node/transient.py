"""systemd-run: each hook and exec probe is a transient unit, its end the end of its cgroup.

Only where systemd is the first process. Its properties are the lines of
`deploy/systemd/embrasure-hook.service`, which a test scores.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from embrasure import limits, sandbox
from node.backends import Room, Started
from node.programs import find_program, system_python

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_TIDY_SECONDS = 10.0
_MIB = limits.MIB
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
    "RestrictAddressFamilies=none", "PrivateUsers=yes", "PrivateTmp=yes", "PrivateDevices=yes",
    "PrivateIPC=yes", "ProtectSystem=strict", "ProtectHome=yes", "ProtectProc=invisible",
    "ProcSubset=pid", "ProtectKernelTunables=yes", "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes", "ProtectControlGroups=yes", "ProtectClock=yes",
    "ProtectHostname=yes", "RestrictNamespaces=yes", "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes", "RemoveIPC=yes",
    "NoNewPrivileges=yes", "CapabilityBoundingSet=", "AmbientCapabilities=", "DevicePolicy=closed",
    "SystemCallArchitectures=native", "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources @chown @keyring @memlock",
    "SystemCallErrorNumber=EPERM", "UMask=0077",
    "KeyringMode=private", "InaccessiblePaths=-/var/lib/embrasure -/etc/embrasure",
    "TemporaryFileSystem=/opt/embrasure:ro /run/embrasure:ro",
)  # fmt: skip


class Transient:
    """Runs a command as a transient unit of the system's service manager."""

    name, level = "systemd-run", 2

    def __init__(self, program: str, control: str, python: str) -> None:
        self._program, self._control, self._python = program, control, python

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, room: Room, held: ExitStack
    ) -> Started:
        """Return how `argv` starts. Whoever asks the manager is the node itself."""
        token = env["EMBRASURE_INSTANCE"]
        seen = [f"BindReadOnlyPaths={path}" for path in room.read]
        seen += [f"BindPaths={path}" for path in room.write]
        seen += [f"ReadWritePaths={path}" for path in room.write]
        who = [] if room.user is None else [f"--uid={room.user.uid}", f"--gid={room.user.gid}"]
        return Started(
            [
                self._program, "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec",
                f"--unit={unit_name(token)}", *who, f"--working-directory={cwd}",
                *(f"--property={line}" for line in (*HOOK, *seen)),
                # A name alone: the value is taken out of the environment, never put into an argv.
                *(f"--setenv={name}" for name in sorted(sandbox.hidden(env))), "--",
                self._python, "-I", "-S", "-c", _SHOW, *argv,
            ],
            is_wrapped=True, env=sandbox.hidden(env),
        )  # fmt: skip

    def end(self, token: str) -> None:
        """The unit's cgroup is empty: killed, then waited for."""
        for words in (("kill", "--signal=SIGKILL"), ("stop",)):
            subprocess.run(  # noqa: S603  # a fixed program, and a name of our own making
                [self._control, *words, unit_name(token)],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIDY_SECONDS, check=False,
            )  # fmt: skip


def unit_name(token: str) -> str:
    """Return the unit of one command."""
    return f"embrasure-hook-{token}.service"


def find() -> Transient | None:
    """Return the back end, None where systemd is not the first process."""
    program, control = find_program("systemd-run"), find_program("systemctl")
    python = system_python()
    if not _BOOTED.is_dir() or program is None or control is None or python is None:
        return None
    return Transient(program, control, python)
