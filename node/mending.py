"""Puts the owner's files back that were damaged or lost, from the copy of the last whole start."""

from __future__ import annotations

from dataclasses import dataclass

from embrasure.aside import BROKEN
from embrasure.errors import EmbrasureError, Misuse
from embrasure.fs import Folder
from node import serving
from node.config import load_config
from node.paths import Paths


@dataclass(frozen=True, slots=True)
class Mended:
    """mended: files that are as they were; forgotten: the file whose copy is gone, "" for none;
    left: what is damaged still.
    """

    mended: tuple[str, ...]
    forgotten: str
    left: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return the body of `embrasure.node.mend/1`."""
        return {
            "mended": list(self.mended), "forgotten": self.forgotten, "left": list(self.left),
        }  # fmt: skip

    def text(self) -> str:
        """Return it as a person reads it."""
        lines = [f"{path}: as the last whole start had it" for path in self.mended]
        lines += [f"{self.forgotten}: its copy is gone"] if self.forgotten else []
        lines += [f"damaged: {one}" for one in self.left]
        return "\n".join(lines) or "nothing is damaged"


def mend(paths: Paths, *, forget: str = "") -> Mended:
    """Return what was put back, once what `forget` names is no copy any more.

    Raises Misuse when the node has no copy of that.
    """
    if forget and not serving.forget(paths, forget):
        raise Misuse("--forget", expected="an app of this node, or `node`", got=forget,
                     hint="its file in apps.d without .toml; or `node`")  # fmt: skip
    copy, mended = serving.load(paths), list[str]()
    for name in sorted(copy.files) if copy is not None else ():
        raw = copy.text(name) if copy is not None else None
        if raw is None or _is_whole(paths, name, copy):
            continue
        path = paths.node_toml if name == serving.NODE else paths.app_toml(name)
        with Folder.open(path.parent, create=True) as folder:
            if folder.has(path.name):
                if folder.has(path.name + BROKEN):
                    folder.remove_tree(path.name + BROKEN)
                folder.rename(path.name, folder, path.name + BROKEN)
            folder.replace(path.name, raw, mode=0o644)
        mended.append(str(path))
    try:
        left = serving.stand(paths).trouble
    except EmbrasureError as problem:
        left = (serving.told(problem),)
    return Mended(tuple(mended), forget, left)


def _is_whole(paths: Paths, name: str, copy: serving.Copy | None) -> bool:
    try:
        if name == serving.NODE:
            serving.check_node(paths, load_config(paths), copy)
        else:
            serving.owned_app(paths, name, copy)
    except EmbrasureError:
        return False
    return True
