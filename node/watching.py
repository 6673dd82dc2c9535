"""Aims the probes of a release at the instance that runs now: who asks, as whom, and about whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from embrasure.bundle.manifest import GrpcProbe
from node import commands, prober, units
from node.config import AppConfig
from node.ground import Ground
from node.probe import Target, Watch
from node.probing import Prober
from node.releases import Installed
from node.rooms import room_of
from node.users import User


class Asking:
    """Asks by itself in development, by a process of the app's user in production.

    A gRPC probe is always asked by a process: apply never imports gRPC.
    """

    def __init__(self, ground: Ground, user: User | None, *, grpc: bool) -> None:
        self._ground, self._user, self._grpc = ground, user, grpc
        self._prober: Prober | None = None

    def check(self, asked: Mapping[str, object]) -> str:
        """Return what is wrong, empty when the probe passes."""
        if not self._ground.isolation.is_production and not self._grpc:
            return prober.check(asked)
        if self._prober is None:
            self._prober = self._ground.supervisor.prober(self._user, grpc=self._grpc)
        said = self._prober.check(asked)
        if self._prober.is_dead:
            self.done()  # the next question has another one
        return said

    def done(self) -> None:
        """No process waits for questions."""
        if self._prober is not None:
            with closing(self._prober):
                self._prober = None


def watch_of(
    ground: Ground, installed: Installed, config: AppConfig, *, in_time: Callable[[], None]
) -> Watch:
    """Return the probes of the release, aimed at the instance that runs now.

    in_time: raises once the time of all of it is over
    """
    supervisor, paths, app = ground.supervisor, ground.paths, installed.manifest.app
    instance = supervisor.running(app)
    folder = paths.release(app, installed.release.id)
    probes = installed.manifest.probes

    def is_alive() -> bool:
        return instance is not None and supervisor.running(app) == instance

    def members() -> frozenset[int]:
        return frozenset() if instance is None else supervisor.members(instance)

    def argv(command: Sequence[str]) -> list[str]:
        return units.resolve(command, manifest=installed.manifest, folder=folder, config=config)

    def run(
        command: Sequence[str], env: Mapping[str, str], cwd: Path, seconds: float
    ) -> commands.Finished:
        room = room_of(paths, installed, config, ground.isolation, changes=False)
        return commands.run(
            command, env=env, cwd=cwd, seconds=seconds, room=room,
            backend=ground.isolation.backend,
        )  # fmt: skip

    def unit(name: str, seconds: float) -> str:
        return supervisor.companion(app, config.units[name], seconds)

    asking = Asking(
        ground, ground.isolation.user(app, config),
        grpc=any(isinstance(probe, GrpcProbe) for probe in probes),
    )  # fmt: skip
    target = Target(
        ports=units.ports(installed, config),
        release=installed.release.manifest[:16],
        env=units.environment(paths, installed, config),
        cwd=folder,
        members=members,
        is_alive=is_alive,
        argv=argv,
        run=run,
        check=asking.check,
        done=asking.done,
        unit=unit,
        shared=paths.shared(app),
        since=0.0 if instance is None else instance.since,
    )
    return Watch(probes, target, halt=ground.halt, in_time=in_time)
