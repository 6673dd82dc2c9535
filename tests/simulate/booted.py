"""A machine whose first process is systemd: this host's own root below an overlay, real cgroups.

Not a virtual machine: its kernel and its loopback are this host's. Processes, mounts, users, and
what runs on it are its own. All mounts lie in its mount namespace, so they
go with its last process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.source import TOP

INIT = Path("/lib/systemd/systemd")
HOME = Path("/usr/lib/embrasure")  # where the units look for the program
PROGRAM = HOME / "bin" / "embrasure"
_BOOT_SECONDS = 60.0
_CONTROLLERS = frozenset({"cpu", "memory", "pids"})
# What a machine in a box has no use for: devices, terminals, clocks, and this host's own services.
_MASKED = (
    "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service", "systemd-logind.service", "systemd-user-sessions.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "getty.target",
    "systemd-random-seed.service", "systemd-sysctl.service", "systemd-modules-load.service",
    "systemd-binfmt.service", "systemd-repart.service", "systemd-firstboot.service",
    "systemd-machine-id-commit.service", "systemd-pcrphase.service", "systemd-sysusers.service",
    "systemd-pcrphase-sysinit.service", "systemd-tmpfiles-setup-dev.service",
    "kmod-static-nodes.service", "dev-hugepages.mount", "sys-kernel-config.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount", "systemd-ask-password-wall.path",
    "systemd-ask-password-console.path", "systemd-journald-audit.socket",
    "systemd-initctl.socket", "systemd-tmpfiles-clean.timer", "systemd-journal-flush.service",
    "systemd-tmpfiles-setup.service", "systemd-remount-fs.service", "-.mount",
)  # fmt: skip
# In a new mount namespace, as the first process of a new process namespace.
_BUILD = r"""
set -e
here=$1; interpreter=$2; libraries=$3; checkout=$4; unified=$5; shift 5
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/upper,workdir=$here/work" "$here/root"
cd "$here/root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
if [ "$unified" = yes ]; then
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
else
  mount -t tmpfs -o mode=0755 tmpfs sys/fs/cgroup
  for name in "$@"; do
    mkdir "sys/fs/cgroup/$name"
    kind=cgroup; what=$name
    case $name in
      unified) kind=cgroup2; what=nsdelegate ;;
      systemd) what=none,name=systemd ;;
    esac
    mount -t $kind -o "nosuid,nodev,noexec,$what" $kind "sys/fs/cgroup/$name"
  done
fi
mount -t tmpfs -o mode=0755,nosuid tmpfs dev
for name in null zero full random urandom tty; do
  : > "dev/$name"; mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/shm dev/pts dev/mqueue
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout; ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --bind "$here/units" etc/systemd/system
for name in etc/init.d etc/rc2.d etc/rc3.d etc/rc5.d; do
  if [ -d "$name" ]; then mount -t tmpfs tmpfs "$name"; fi
done
for name in etc/embrasure var/lib/embrasure opt/embrasure; do
  mkdir -p "$name"; mount --bind "$here/node/$name" "$name"
done
if [ "$interpreter" != / ]; then
  mount --bind "$interpreter" usr/lib/embrasure/interpreter
  mount -o remount,bind,ro usr/lib/embrasure/interpreter
fi
mount --bind "$libraries" usr/lib/embrasure/libraries
mount -o remount,bind,ro usr/lib/embrasure/libraries
for path in "$checkout"/*; do  # its own folder may be one that only root may pass
  name=usr/lib/embrasure/checkout/${path##*/}
  if [ -d "$path" ]; then mkdir -p "$name"; else : > "$name"; fi
  mount --bind "$path" "$name"
  mount -o remount,bind,ro "$name"
done
mkdir -p .away
pivot_root . .away
umount -l /.away
cd /
mount --make-rshared /
exec env -i container=embrasure PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
  --log-level=info --log-target=journal --show-status=no
"""


def missing_need() -> str:
    """Return what this host lacks for such a machine, empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    for program in ("unshare", "nsenter", "pivot_root", "setpriv"):
        if shutil.which(program) is None:
            return program
    if not INIT.exists():
        return "systemd"
    if not Path("/usr/bin/dbus-daemon").exists():
        return "dbus"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "overlay file systems"
    found = _hierarchies()
    if list(found) == ["unified"] and _CONTROLLERS - _controllers(found["unified"]):
        return "cgroup controllers memory and pids"
    return "" if found else "cgroups"


def _controllers(top: Path) -> set[str]:
    """Return what bounds the cgroups below, which are asked for where they may be."""
    file = top / "cgroup.subtree_control"
    for name in _CONTROLLERS:
        with suppress(OSError):  # only a root may have both processes and controllers below
            file.write_text(f"+{name}")
    return set(file.read_text().split())


def _on_overlay(folder: str) -> bool:
    """Whether no overlay can be made in this folder, for it is one itself, as in a container."""
    said = subprocess.run(
        ["stat", "--file-system", "--format=%T", folder], capture_output=True, text=True, check=True
    )
    return said.stdout.strip() == "overlayfs"


def _hierarchies() -> dict[str, Path]:
    """Return name -> where this process's cgroup of it is, of those that a machine can have."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own[names] = path
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, _ = rest.split(" ", 2)
        where, root = Path(fields.split()[4]), fields.split()[3]
        if kind == "cgroup2":
            name, path = "unified", root
        elif kind == "cgroup" and where.name != "cpuset":
            name = where.name
            path = own.get("name=systemd" if name == "systemd" else name, "/")
        else:
            continue
        top = where / os.path.relpath(path, root)
        if os.access(top, os.W_OK) and not top.joinpath("cgroup.controllers").is_symlink():
            found[name] = top
    return found


class Machine:
    """One machine, switched on and off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"embrasure-{secrets.token_hex(4)}"
        self.prefix = folder / "node"  # what lies below the machine's `/`, while it is off
        self._tops = {name: top / self.name for name, top in _hierarchies().items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        for name in ("upper", "work", "root", "units"):
            (folder / name).mkdir()
        for name in ("etc/embrasure", "var/lib/embrasure", "opt/embrasure"):
            (self.prefix / name).mkdir(parents=True, exist_ok=True)
        self._install()

    def _install(self) -> None:
        """The program is where its units look for it, and systemd starts little else."""
        home = self.folder / "upper" / HOME.relative_to("/")
        own = Path(sys.executable).resolve()
        is_foreign = not own.is_relative_to("/usr")
        python = HOME / "interpreter" / own.relative_to(sys.base_prefix) if is_foreign else own
        site = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        for path in (
            home / "bin",
            home / "interpreter",
            home / "libraries",
            home / "checkout",
            site,
        ):
            path.mkdir(parents=True)
        if is_foreign and sysconfig.get_config_var("Py_ENABLE_SHARED"):
            # It looks for its library below /root, say, which the units do not see; then here.
            name = str(sysconfig.get_config_var("INSTSONAME"))
            where = home.parent / str(sysconfig.get_config_var("MULTIARCH"))
            where.mkdir()
            (where / name).symlink_to(HOME / "interpreter" / "lib" / name)
        (home / "bin" / "python3").symlink_to(python)
        (home / "bin" / "python").symlink_to("python3")
        (home / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        (site / "embrasure.pth").write_text(f"{HOME}/checkout\n{HOME}/libraries\n")
        script = home / "bin" / "embrasure"
        script.write_text(
            f"#!{HOME}/bin/python3\nimport sys\nfrom embrasure.cli import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
        for name in _MASKED:
            (self.folder / "units" / name).symlink_to("/dev/null")
        (self.folder / "units" / "default.target").symlink_to(
            "/lib/systemd/system/multi-user.target"
        )

    def on(self) -> None:
        """It has booted: its first process is systemd, and all that it starts is started."""
        is_unified = list(self._tops) == ["unified"]
        joined = []
        for top in self._tops.values():
            top.mkdir(exist_ok=True)
            joined.append(f"echo $$ > {top}/cgroup.procs")
        interpreter = Path(sys.base_prefix)
        words = [
            str(self.folder),
            "/" if interpreter.is_relative_to("/usr") else str(interpreter),
            sysconfig.get_path("purelib"), str(TOP), "yes" if is_unified else "no", *self._tops,
        ]  # fmt: skip
        join = " && ".join([*joined, 'exec "$@"'])
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", "-c", join, "sh", "unshare", "--mount",
                 "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", "sh", "-c",
                 _BUILD, "sh", *words],
                cwd="/", stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.pid = self._first()
        until = time.monotonic() + _BOOT_SECONDS
        while not self._is_up():
            if time.monotonic() > until or self._process.poll() is not None:
                raise AssertionError(f"no boot:\n{(self.folder / 'console').read_text()[-4000:]}")
            time.sleep(0.05)

    def _first(self) -> int:
        """Return the number that its first process has here."""
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        until = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            if found := path.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise AssertionError(f"no process:\n{(self.folder / 'console').read_text()[-4000:]}")

    def _is_up(self) -> bool:
        if not Path(f"/proc/{self.pid}/root/run/systemd/private").exists():
            return False
        said = self.run("systemctl", "is-system-running").stdout.strip()
        return said in ("running", "degraded")

    def off(self) -> None:
        """Its power is cut: no process of it lives, and none of its cgroups is left."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
        for top in self._tops.values():
            _remove(top)

    def command(self, *words: object) -> list[str]:
        """Return the words that run a command in it, as its root, from here."""
        return [
            "nsenter", "--target", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--cgroup",
            "--wdns=/", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
            *map(str, words),
        ]  # fmt: skip

    def run(self, *words: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Return how a command ended that root ran in it."""
        return subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def must(self, *words: object, seconds: float = 60) -> str:
        """Return what a command printed that root ran in it, and that ended well."""
        done = self.run(*words, seconds=seconds)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return what systemd says of a unit."""
        said = self.must("systemctl", "show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def journal(self, unit: str = "") -> str:
        """Return what was logged since it was switched on, of one unit or of all."""
        one = [f"--unit={unit}"] if unit else []
        return self.run(
            "journalctl", "--no-pager", "--boot", "--output=short-monotonic", *one
        ).stdout


def _remove(top: Path) -> None:
    """The cgroup is gone with all below it; those of processes that just ended need a moment."""
    until = time.monotonic() + 10
    while top.exists():
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        if time.monotonic() > until:
            raise AssertionError(f"{top} is still used")
        time.sleep(0.01)


@contextmanager
def machine(*, on: bool = True) -> Iterator[Machine]:
    """Yield a machine; nothing of it is left afterwards."""
    top = "/dev/shm" if _on_overlay("/var/tmp") else "/var/tmp"  # noqa: S108  # a folder of our own
    folder = Path(tempfile.mkdtemp(prefix="embrasure-machine-", dir=top))
    folder.chmod(0o755)
    found = Machine(folder)
    try:
        if on:
            found.on()
        yield found
    finally:
        found.off()
        shutil.rmtree(folder)
