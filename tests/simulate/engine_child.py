"""The gateway of a kill test as a process of its own: `python -m tests.simulate.engine_child FILE`.

FILE names folder, keys and plan; whoever started it kills it with SIGKILL and starts it again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from nacl.public import PrivateKey
from securesystemslib.signer import CryptoSigner

from embrasure.bundle.store import BlobStore
from gateway.audit import Journal
from gateway.database import Database
from gateway.engine import Engine
from gateway.keyring import Online
from gateway.parts import EngineParts
from gateway.proposals import Proposals
from gateway.repository import Repository
from tests.simulate.engine import FAST, SimEngine, SimFleet


class _Pair:
    """The gateway's client leaf."""

    def __init__(self, key: str, chain: str) -> None:
        self._pair = (key.encode(), chain.encode())

    def client(self) -> tuple[bytes, bytes]:
        return self._pair


def write_config(file: Path, folder: Path, fleet: SimFleet, host: SimEngine, plan: str) -> None:
    """`file` holds what a child needs to be the gateway of `folder`."""
    sim = fleet.sim
    online = {"snapshot": "snapshot", "timestamp": "timestamp", "gates": f"gates-{sim.env}"}
    key, chain = host.engine.parts.identity.client()
    assert isinstance(key, bytes)
    config = {
        "folder": str(folder),
        "anchor": sim.anchor.decode(),
        "root": sim.root_id,
        "env": sim.env,
        "plan": plan,
        "online": {
            name: sim.signers[role][0].private_bytes.decode() for name, role in online.items()
        },
        "key": key.decode(),
        "chain": chain.decode(),
        "collect": bytes(sim.collect).hex(),
    }
    file.write_text(json.dumps(config))


def _signer(pem: str) -> CryptoSigner:
    return CryptoSigner(load_pem_private_key(pem.encode(), None))


async def main(config: dict[str, Any]) -> None:
    """Be the gateway until killed."""
    folder = Path(config["folder"])
    database = Database(folder / "state")
    journal = Journal(folder / "state", database, root=config["root"], actor="gateway/g1")
    signers = {name: _signer(pem) for name, pem in config["online"].items()}
    repository = Repository(
        folder / "repository",
        state=folder / "state",
        anchor=config["anchor"].encode(),
        online=Online(
            snapshot=signers["snapshot"],
            timestamp=signers["timestamp"],
            gates={config["env"]: signers["gates"]},
        ),
        journal=journal,
    )
    repository.open()
    blobs = BlobStore(folder / "repository" / "blobs", mode=0o755)
    engine = Engine(
        EngineParts(
            name="g1",
            database=database,
            journal=journal,
            repository=repository,
            proposals=Proposals(database, journal, repository, blobs),
            identity=_Pair(config["key"], config["chain"]),
            collect_key=PrivateKey(bytes.fromhex(config["collect"])),
            pace=FAST,
        )
    )
    running = asyncio.ensure_future(engine.run())
    await engine.start(config["env"], "shop", config["plan"], by="anna")
    await running


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
