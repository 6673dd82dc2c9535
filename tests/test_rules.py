"""Rules of the code that no linter knows: no mocks, no careless writes, no forgotten await."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest

from tests.source import TOP, Module, calls, dotted, imported, modules, nodes, product

# The one place where paths become files. The rest goes through it, or through a held Folder.
FILE_WORK = {"embrasure/fs.py", "embrasure/folder.py", "embrasure/descriptor.py",
             "embrasure/removal.py", "embrasure/sandbox.py"}  # fmt: skip
# The one port to the disk: every call that changes it. What goes past it, no crash test would see.
PORT = {"embrasure/fsops.py", "embrasure/kernel.py"}
# Each with its reason; a new line here is a decision, not a way out.
EXCUSED = {
    "gateway/audit.py": "holds its append-only file open, under the gateway's lock",
    "embrasure/pipes.py": "moves bytes from one pipe into another, which is our own",
    "gateway/database.py": "SQLite opens its file by path",
    "pki/passphrase.py": "opens the terminal, which is read and written",
}
# Archives run code or write where they like when unpacked; pickles run code when read.
# Nothing is unpacked or inflated: an archive, or a frame that swells, is no input of ours.
FORBIDDEN_IMPORTS = {"tarfile", "zipfile", "zipimport", "gzip", "bz2", "lzma", "zlib", "zstandard",
                     "libarchive", "pickle", "marshal", "shelve", "dill"}  # fmt: skip
MOCKS = {"mock", "unittest.mock", "pytest_mock", "asyncmock"}
OS_WRITES = {"open", "rename", "renames", "replace", "unlink", "remove", "removedirs", "mkdir",
             "makedirs", "rmdir", "symlink", "link", "chmod", "chown", "lchown", "truncate",
             "mkfifo", "mknod"}  # fmt: skip
# On descriptors too; `open` is in neither: flags say what it does, and `FILE_WORK` reads with it.
PORT_WRITES = (OS_WRITES - {"open"}) | {
    "write", "writev", "pwrite", "pwritev", "sendfile", "copy_file_range", "splice", "ftruncate",
    "fchmod", "fchown", "lchmod", "utime", "setxattr", "removexattr", "posix_fallocate", "fsync",
    "fdatasync", "sync",
}  # fmt: skip
KERNEL_WRITES = {"rename_new", "exchange", "syncfs", "reserve", "clone"}  # of `embrasure.kernel`
# System calls about processes that Python does not offer; none of them changes a file.
PROCESS_CALLS = {
    "embrasure/memory.py",
    "embrasure/sandbox.py",
    "node/as_user.py",
    "node/launch.py",
    "node/prober.py",
    "node/processes.py",
    "node/service.py",
}
PATH_WRITES = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rmdir"}
# A way to switch a check off must not exist, so it has no name.
SWITCHES = re.compile(
    r"(?i)insecure|no.?verify|skip.?verif|disable.?verif|allow.?unsigned|skip.?check|trust.?all"
)
OPEN_DOORS = {"CERT_NONE", "insecure_channel", "add_insecure_port", "_create_unverified_context"}


def lines(rule: Callable[[Module], Iterator[str]], *found: Module) -> str:
    return "\n".join(line for module in found for line in rule(module))


def forbidden_imports(module: Module) -> Iterator[str]:
    for name, item in imported(module):
        if FORBIDDEN_IMPORTS & {name, name.partition(".")[0]}:
            yield f"{module.at(item)} imports {name}"


def mocks(module: Module) -> Iterator[str]:
    for name, item in imported(module):
        if any(name == mock or name.startswith(f"{mock}.") for mock in MOCKS):
            yield f"{module.at(item)} imports {name}"
    for function in module.functions():
        if "mocker" in {argument.arg for argument in function.args.args}:
            yield f"{module.at(function)} takes a mocker"


def shells(module: Module) -> Iterator[str]:
    for call in calls(module):
        if dotted(call.func) in ("os.system", "os.popen", "eval", "exec", "subprocess.getoutput"):
            yield f"{module.at(call)} {dotted(call.func)}"
        for word in call.keywords:
            if word.arg == "shell" and not _is_false(word.value):
                yield f"{module.at(call)} shell"


def asserts(module: Module) -> Iterator[str]:
    for item in nodes(module):
        if isinstance(item, ast.Assert):
            yield f"{module.at(item)} assert: python -O removes it"


def unfinished(module: Module) -> Iterator[str]:
    for number, line in enumerate(module.text.splitlines(), start=1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield f"{module.name}:{number} {line.strip()}"
    for item in nodes(module):
        if isinstance(item, ast.Name) and item.id == "NotImplementedError":
            yield f"{module.at(item)} NotImplementedError"


def careless_writes(module: Module) -> Iterator[str]:
    """Yield what changes the disk by a path: nothing syncs it, and it may follow a link."""
    for name, item in imported(module):
        # A private temporary folder is no harm, but a node has its own place for everything.
        banned = {"shutil", "tempfile"} if module.package == "node" else {"shutil"}
        if name.partition(".")[0] in banned:
            yield f"{module.at(item)} imports {name}"
    for call in calls(module):
        if is_careless(call):
            yield f"{module.at(call)} {dotted(call.func)}"


def past_the_port(module: Module) -> Iterator[str]:
    """Yield what changes the disk beside the one port: no crash test could be made to see it."""
    for name, item in imported(module):
        first = name.partition(".")[0]
        is_raw = first == "ctypes" and module.name not in PROCESS_CALLS
        if is_raw or first == "shutil" or name == "tempfile.NamedTemporaryFile":
            yield f"{module.at(item)} imports {name}"
    for call in calls(module):
        holder, _, verb = dotted(call.func).rpartition(".")
        is_pipe = any("wake" in dotted(word) for word in call.args[:1])  # wakes a selector
        is_write = holder == "os" and verb in PORT_WRITES and not is_pipe
        is_write |= holder == "kernel" and verb in KERNEL_WRITES
        if is_write or _creates(call):
            yield f"{module.at(call)} {dotted(call.func)}"


def _creates(call: ast.Call) -> bool:
    """Return whether the call opens a file so that it may be made or changed."""
    flags = {dotted(item) for item in ast.walk(call) if isinstance(item, ast.Attribute)}
    makes = flags & {"os.O_CREAT", "os.O_WRONLY", "os.O_RDWR", "os.O_TRUNC", "os.O_APPEND"}
    return dotted(call.func) == "os.open" and bool(makes) and not _is_devnull(call)


def is_careless(call: ast.Call) -> bool:
    """Return whether the call can only be a write by path (a Folder's methods take a name)."""
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" and _writes(call, at=1)
    if not isinstance(call.func, ast.Attribute):
        return False
    holder, verb, words = dotted(call.func.value), call.func.attr, {w.arg for w in call.keywords}
    count = len(call.args)
    if holder in ("os", "io"):
        return verb in OS_WRITES and not _is_devnull(call)
    return (
        verb in PATH_WRITES
        or (verb == "mkdir" and (not count or bool(words & {"parents", "exist_ok"})))
        or (verb == "unlink" and not count)
        or (verb in ("rename", "replace") and count == 1 and not words)
        or (verb == "open" and _writes(call, at=0))
    )


def _is_devnull(call: ast.Call) -> bool:
    return bool(call.args) and dotted(call.args[0]) == "os.devnull"


def _writes(call: ast.Call, *, at: int) -> bool:
    """Return whether the argument `at`, or `mode=`, is a mode that writes."""
    modes = [*call.args[at : at + 1], *(w.value for w in call.keywords if w.arg == "mode")]
    texts = [str(item.value) for item in modes if isinstance(item, ast.Constant)]
    return any(re.fullmatch(r"[rbt]*[wax+][rwaxbt+]*", text) for text in texts)


def unawaited_aborts(module: Module) -> Iterator[str]:
    """Yield `context.abort(...)` without await: it would do nothing, and the call would go on."""
    awaited = {id(item.value) for item in nodes(module) if isinstance(item, ast.Await)}
    for call in calls(module):
        name = dotted(call.func)
        if name.endswith("context.abort") and id(call) not in awaited:
            yield f"{module.at(call)} {name} is not awaited"


def open_doors(module: Module) -> Iterator[str]:
    for item in nodes(module):
        if isinstance(item, ast.Attribute) and item.attr in OPEN_DOORS:
            yield f"{module.at(item)} {item.attr}"
        elif isinstance(item, ast.keyword) and item.arg in ("verify", "check_hostname"):
            if _is_false(item.value):
                yield f"{module.at(item.value)} {item.arg}=False"
        elif isinstance(item, ast.AnnAssign) and SWITCHES.search(dotted(item.target)):
            yield f"{module.at(item)} {dotted(item.target)}"
        elif isinstance(item, ast.Constant) and SWITCHES.search(_flag(item)):
            yield f"{module.at(item)} {item.value!r}"


def _flag(item: ast.Constant) -> str:
    return item.value if isinstance(item.value, str) and item.value.startswith("--") else ""


def _is_false(item: ast.expr) -> bool:
    return isinstance(item, ast.Constant) and not item.value


def test_nothing_is_unpacked_and_nothing_is_unpickled() -> None:
    found = lines(forbidden_imports, *product())
    assert not found, found


def test_nothing_of_ours_is_mocked() -> None:
    found = lines(mocks, *product(), *modules("tests", "tools"))
    assert not found, found


def test_no_shell_and_no_evaluated_text() -> None:
    found = lines(shells, *product(), *modules("tools"))
    assert not found, found


def test_no_check_is_an_assert() -> None:
    found = lines(asserts, *product())
    assert not found, found


def test_nothing_is_left_for_later() -> None:
    found = lines(unfinished, *product(), *modules("tools"))
    assert not found, found


def test_files_are_written_through_the_crash_safe_layer_only() -> None:
    files = modules("embrasure", "gateway", "mirror", "node", "pki")
    allowed = FILE_WORK | PORT | EXCUSED.keys()
    found = lines(careless_writes, *(m for m in files if m.name not in allowed))
    assert not found, found


def test_every_change_of_a_disk_goes_through_the_one_port() -> None:
    files = modules("embrasure", "gateway", "mirror", "node", "pki")
    found = lines(past_the_port, *(m for m in files if m.name not in PORT | EXCUSED.keys()))
    assert not found, found


def test_every_abort_of_a_call_is_awaited() -> None:
    found = lines(unawaited_aborts, *product(), *modules("tests"))
    assert not found, found


def test_no_switch_turns_a_check_off() -> None:
    found = lines(open_doors, *product())
    assert not found, found


def sample(text: str) -> Module:
    return Module(TOP / "node" / "sample.py", text, ast.parse(text))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (forbidden_imports, "def f():\n    import tarfile"),
        (mocks, "from unittest.mock import Mock"),
        (mocks, "def test_x(mocker): ..."),
        (shells, "subprocess.run(x, shell=True)"),
        (shells, "os.system(x)"),
        (asserts, "assert x"),
        (unfinished, "def f(): raise NotImplementedError"),
        (careless_writes, "open(p, 'w')"),
        (careless_writes, "path.write_bytes(b'')"),
        (careless_writes, "path.mkdir(parents=True, exist_ok=True)"),
        (careless_writes, "path.unlink()"),
        (careless_writes, "path.replace(other)"),
        (careless_writes, "path.open('wb')"),
        (careless_writes, "path.open(mode='r+')"),
        (careless_writes, "os.rename(a, b)"),
        (careless_writes, "import shutil"),
        (past_the_port, "import ctypes"),
        (past_the_port, "from tempfile import NamedTemporaryFile"),
        (past_the_port, "os.write(fd, data)"),
        (past_the_port, "os.fsync(fd)"),
        (past_the_port, "kernel.syncfs(fd)"),
        (past_the_port, "os.fchmod(fd, 0o444)"),
        (past_the_port, "os.utime(path)"),
        (past_the_port, "os.symlink(a, b, dir_fd=fd)"),
        (past_the_port, "os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)"),
        (unawaited_aborts, "async def f(context):\n    context.abort(1, '')"),
        (open_doors, "ssl.CERT_NONE"),
        (open_doors, "requests.get(u, verify=False)"),
        (open_doors, "class C:\n    insecure: bool = False"),
        (open_doors, "option('--skip-verification')"),
    ],
)
def test_each_rule_sees_what_it_forbids(rule: Callable[[Module], Iterator[str]], text: str) -> None:
    assert list(rule(sample(text)))


@pytest.mark.parametrize(
    "text",
    [
        "folder.unlink('a')",
        "folder.mkdir('a', mode=448)",
        "folder.rename('a', other, 'b')",
        "Folder.open(path)",
        "text.replace('a', 'b')",
        "moment.replace(microsecond=0)",
        "path.read_bytes()",
        "path.open('rb')",
        "open(path)",
    ],
)
def test_work_through_a_held_folder_is_let_be(text: str) -> None:
    assert list(careless_writes(sample(text))) == []


def test_reading_beside_the_port_is_let_be() -> None:
    text = "os.open(name, os.O_RDONLY, dir_fd=fd)\nos.read(fd, 1)\nos.fstat(fd)"
    assert list(past_the_port(sample(text))) == []


def test_an_awaited_abort_is_let_be() -> None:
    assert list(unawaited_aborts(sample("async def f(context):\n    await context.abort(1)"))) == []
