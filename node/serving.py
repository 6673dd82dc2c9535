"""What a start of the node goes by; where a file is damaged, the copy of the last whole start.

So damage never stops what runs: the node then only serves. The copy has the owner's files and who
this node is, but no key; it is apply's alone, as floors are. Damage never weakens what separates
apps: a file that was cut off counts as damaged, and so does one that takes `production` away.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from embrasure import limits
from embrasure.config import parse_toml
from embrasure.errors import Damaged, Denied, EmbrasureError, Misuse, NotFound, Refused
from embrasure.fs import read_file
from embrasure.trust.documents import AppName, Base64, Document
from embrasure.trust.floors import PairStore
from node.config import AppConfig, NodeConfig, app_names, load_app, load_config
from node.identity import Identity, load_identity
from node.keycopy import Card, keep_pair
from node.paths import Paths

NODE = "node"  # node.toml, where an app's name stands for its file
S = TypeVar("S", bound=msgspec.Struct)
Files = Annotated[dict[AppName, Base64], Meta(max_length=limits.SERVED_APPS + 1)]


class Copy(Document, frozen=True, kw_only=True):
    """The owner's files at the last whole start, base64: `node` is node.toml, others are apps."""

    v: Literal[1]
    type: Literal["serving"]
    card: Card
    files: Files

    def text(self, name: str) -> bytes | None:
        """Return one file, None when the copy does not have it."""
        return base64.b64decode(self.files[name]) if name in self.files else None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the node goes by. trouble: what is damaged: with any of it the node only serves."""

    config: NodeConfig
    identity: Identity
    trouble: tuple[str, ...] = field(default=())

    @property
    def is_whole(self) -> bool:
        """Whether everything is as its owner and this node left it."""
        return not self.trouble


def load(paths: Paths) -> Copy | None:
    """Return the copy, None when there is none or neither file of it is whole. Writes nothing."""
    store = PairStore(paths.serving, Copy)
    try:
        return store.load(repair=False) if store.exists() else None
    except EmbrasureError:
        return None


def stand(paths: Paths) -> Standing:
    """Return what this node goes by now: its own files, else the copy, with a word why.

    Raises Misuse, Refused, Damaged, Denied, as the file does, for damage without a whole copy.
    """
    copy = load(paths)
    trouble = list[str]()
    try:
        config = load_config(paths)
        check_node(paths, config, copy)
    except EmbrasureError as problem:
        raw = copy.text(NODE) if copy is not None else None
        if raw is None:
            raise
        config = parse_toml(raw, NodeConfig, thing="copy of node.toml")
        trouble.append(told(problem))
    try:
        identity = load_identity(paths)
    except (Misuse, Refused, Damaged, NotFound) as problem:
        if copy is None:
            raise
        boot = paths.boot_cert if copy.card.mode == "push" else None
        identity = Identity(copy.card, None, boot)
        trouble.append(f"{told(problem)}; keys: docs/node.md, State files")
    if (config.id, config.env) != (identity.node, identity.env):
        other = Refused(
            str(paths.node_toml), expected=f"{identity.env} {identity.node}",
            got=f"{config.env} {config.id}", hint="node.toml is of another node than the keys",
            reason="identity",
        )  # fmt: skip
        raw = copy.text(NODE) if copy is not None else None
        if copy is None or raw is None or copy.card != identity.card:
            raise other
        config = parse_toml(raw, NodeConfig, thing="copy of node.toml")
        trouble.append(told(other))
    return Standing(config, identity, tuple(trouble))


def app_config(paths: Paths, app: str) -> tuple[AppConfig, str]:
    """Return what the app is served with, and what is wrong with its file, "" when it is whole.

    Raises what `load_app` raises when the copy does not know the app either.
    """
    copy = load(paths)
    try:
        return owned_app(paths, app, copy), ""
    except EmbrasureError as problem:
        raw = copy.text(app) if copy is not None else None
        if raw is None:
            raise
        return parse_toml(raw, AppConfig, thing=f"copy of {app}.toml"), told(problem)


def owned_app(paths: Paths, app: str, copy: Copy | None) -> AppConfig:
    """Return the owner's word on the app, which is as he left it; raises Misuse, Denied."""
    found = load_app(paths, app)
    check_kept(paths, app, copy)
    return found


def served(paths: Paths) -> tuple[str, ...]:
    """Return the apps that are let run here, those whose file was lost among them, sorted."""
    copy = load(paths)
    return tuple(sorted({*app_names(paths), *(copy.files if copy else ())} - {NODE}))


def check_kept(paths: Paths, name: str, copy: Copy | None) -> None:
    """Return only when the file is not the beginning of what it was; raises Misuse (`config`).

    Cut off between two lines it would still be good TOML, and say less: no window, no user.
    """
    before = copy.text(name) if copy is not None else None
    if before is None:
        return
    path = paths.node_toml if name == NODE else paths.app_toml(name)
    now = read_file(path, limit=limits.CONFIG_BYTES)
    if now.rstrip() != before.rstrip() and before.startswith(now.rstrip()):
        raise Misuse(
            str(path), expected=f"the file of {len(before)} bytes that this node knows",
            got=f"its first {len(now)}", reason="config",
            hint=f"if you shortened it: embrasure node mend --forget {name}",
        )  # fmt: skip


def check_node(paths: Paths, config: NodeConfig, copy: Copy | None) -> None:
    """Return only when node.toml, which says `config`, was not cut off, and separates as before.

    Raises Misuse, Denied (`config`).
    """
    check_kept(paths, NODE, copy)
    raw = copy.text(NODE) if copy is not None else None
    if raw is None or config.production:
        return
    if parse_toml(raw, NodeConfig, thing="copy of node.toml").production:
        raise Denied(
            "node.toml", expected="`production = true`, as before", got="development",
            hint=f"if you want that: embrasure node mend --forget {NODE}", reason="config",
        )  # fmt: skip


def told(problem: EmbrasureError) -> str:
    """Return one sentence of damage for a person."""
    return f"{problem} [{problem.word}]"


def keep(paths: Paths, standing: Standing) -> None:
    """The copy has every file of the owner that is whole now; for apply, which alone writes it.

    A damaged or lost one stays in it as it was, until the owner has it forgotten.
    """
    before = load(paths)
    files = dict(before.files) if before is not None else {}
    # An app may be called `node`: its file must not take the place of node.toml.
    names = [app for app in app_names(paths) if app != NODE]
    wanted = {app: paths.app_toml(app) for app in names[: limits.SERVED_APPS]}
    if standing.is_whole:
        wanted[NODE] = paths.node_toml
    for name, path in wanted.items():
        try:
            if name != NODE:
                owned_app(paths, name, before)
            raw = read_file(path, limit=limits.SERVED_FILE_BYTES, unshared=True)
        except EmbrasureError:
            continue
        files[name] = base64.b64encode(raw).decode("ascii")
    known = {name: text for name, text in files.items()
             if name in wanted or name == NODE or paths.current(name).is_symlink()}  # fmt: skip
    files = dict(sorted(known.items())[: limits.SERVED_APPS + 1])
    _save(paths, Copy(v=1, type="serving", card=standing.identity.card, files=files))


def forget(paths: Paths, name: str) -> bool:
    """Return whether the copy knew the file; it does not any more: what the owner wrote counts."""
    copy = load(paths)
    if copy is None or name not in copy.files:
        return False
    files = {one: text for one, text in copy.files.items() if one != name}
    _save(paths, msgspec.structs.replace(copy, files=files))
    return True


def _save(paths: Paths, copy: Copy) -> None:
    keep_pair(PairStore(paths.serving, Copy), copy)
