"""Generate `embrasure/wire/` from `proto/`; run it after every change of a .proto file."""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent


def generate(out: Path) -> None:
    """Write the stubs of every file in `proto/` below `out`, as `embrasure/wire/*`."""
    from grpc_tools import protoc  # only developers have it

    names = sorted(path.name for path in (TOP / "proto").glob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-Iembrasure/wire={TOP / 'proto'}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *(f"embrasure/wire/{name}" for name in names),
        ]
    )
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TOP)
