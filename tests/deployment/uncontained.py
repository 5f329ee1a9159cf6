"""The services of compose.yaml as plain processes: the same commands and environment, without containers.

What a container would see at a path is a file or folder below a folder of the test, what it would reach under a name
is a free port of the loopback, and both are put in wherever the file, or a configuration that it mounts, names them.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tests.broker.mosquitto import free_port, program
from tests.deployment.compose_file import REPOSITORY, Mount, Service, read_services

SECONDS_MAX = 180.0
"""Only a failing test waits so long."""
HEALTH_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0


class Uncontained:
    """Some services, started in the order of their dependencies; all are ended with `stop`."""

    def __init__(
        self, folder: Path, names: Collection[str], *, outside: Mapping[str, int], added: Mapping[str, str]
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: everything is below it.
            names: the services to start.
            outside: ports of services that the test itself provides, by service; they count as started and done.
            added: variables that each process has besides its own.
        """
        self.folder = folder
        self.services = {name: service for name, service in read_services().items() if name in names}
        self.given = outside
        self._added = added
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.healthy: set[str] = set()
        self.codes: dict[str, int] = {}
        """Of those that have ended."""
        self._ports: dict[tuple[str, int], int] = {}
        # As `make up`: this folder is there before anything else, and only for its owner.
        (folder / "secrets").mkdir(mode=0o700, parents=True)

    # -- where things are -------------------------------------------------------------------------------------------

    def port(self, service: str, inside: int) -> int:
        """Of the loopback, for a port of a container."""
        if service in self.given:
            return self.given[service]
        return self._ports.setdefault((service, inside), free_port())

    def volume(self, name: str) -> Path:
        return self.folder / "volumes" / name

    def secret(self, path: str) -> Path:
        return self.folder / path

    def log(self, service: str) -> str:
        path = self.folder / f"{service}.log"
        return path.read_text() if path.exists() else ""

    def _path(self, service: Service, mount: Mount) -> Path:
        match mount.kind:
            case "volume":
                path = self.volume(mount.source)
            case "tmpfs":
                path = self.folder / "tmpfs" / service.name / mount.target.strip("/").replace("/", "-")
            case _ if mount.source.startswith("./secrets"):
                return self.folder / mount.source
            case "bind" if "mosquitto" in service.raw.get("image", ""):
                return self._configuration(service, mount)
            case _:
                return REPOSITORY / mount.source
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _configuration(self, service: Service, mount: Mount) -> Path:
        """A copy of a mounted folder of configuration files, with the places of this test in it."""
        copy = self.folder / "configuration" / service.name
        if not copy.exists():
            shutil.copytree(REPOSITORY / mount.source, copy)
            for file in copy.iterdir():
                text = self._placed(service, file.read_text())
                text = re.sub(
                    r"^listener (\d+)$",
                    lambda match: f"listener {self.port(service.name, int(match[1]))} 127.0.0.1",
                    text,
                    flags=re.MULTILINE,
                )
                # As root, mosquitto becomes a user who may not read here.
                user = "user root\n" if os.geteuid() == 0 and file.suffix == ".conf" else ""
                file.write_text(user + text)
        return copy

    def _placed(self, service: Service, text: str) -> str:
        """`text` with the paths and addresses of this test."""
        places = {
            mount.target: mount for mount in sorted(service.mounts, key=lambda mount: len(mount.target), reverse=True)
        }
        known = "|".join(re.escape(target) for target in places)
        if known:
            text = re.sub(
                rf"(?<![\w/.-])({known})(?![\w.-])", lambda match: str(self._path(service, places[match[1]])), text
            )
        names = "|".join(map(re.escape, {*self.services, *self.given}))
        return re.sub(rf"(?<=//)({names}):(\d+)", lambda match: f"127.0.0.1:{self.port(match[1], int(match[2]))}", text)

    def _own(self, service: Service, word: str) -> str:
        """A word of a health check, which speaks to its own container."""
        ports = {str(inside): str(self.port(service.name, inside)) for _, _, inside in service.ports}
        return ports.get(word, self._placed(service, word))

    def _program(self, name: str) -> str:
        return sys.executable if name == "python" else program(Path(name).name)

    def environment(self, service: Service) -> dict[str, str]:
        """All that the process sees; nothing of the test's own."""
        home = self.folder / "tmpfs" / service.name / "tmp"
        home.mkdir(parents=True, exist_ok=True)
        wheels = os.environ.get("FEDKD_WHEEL_FOLDER", str(Path.home() / ".cache" / "asyncfedkd"))
        return {
            # `python` in a script is the one that runs the test, as in the image it is the one of the image.
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin",
            "HOME": str(home),
            "FEDKD_WHEEL_FOLDER": wheels,
            **self._added,
            **{name: self._placed(service, value) for name, value in service.environment.items()},
        }

    # -- to start, to look after, to stop ----------------------------------------------------------------------------

    def start(self) -> None:
        """Starts each service as soon as what it depends on is there; returns when all are, one-shots ended."""
        deadline = time.monotonic() + SECONDS_MAX
        while not all(self._there(name) for name in self.services):
            assert time.monotonic() < deadline, self.report()
            for name, service in self.services.items():
                if name not in self.processes and all(self._met(*one) for one in service.depends_on.items()):
                    self._begin(service)
            time.sleep(0.3)

    def _begin(self, service: Service) -> None:
        words = [self._placed(service, word) for word in service.command]
        environment = self.environment(service)
        with (self.folder / f"{service.name}.log").open("ab") as log:
            self.processes[service.name] = subprocess.Popen(
                [self._program(words[0]), *words[1:]],
                cwd=environment["HOME"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def _there(self, name: str) -> bool:
        service = self.services[name]
        if service.once:
            return self._met(name, "service_completed_successfully")
        return self._met(name, "service_healthy" if service.healthcheck else "service_started")

    def _met(self, name: str, condition: str) -> bool:
        if name in self.given:
            return True
        process = self.processes.get(name)
        if process is None:
            return False
        code = process.poll()
        if code is not None:
            assert code == 0, f"{name} ended with {code}\n{self.report()}"
            assert self.services[name].once, f"{name} ended by itself\n{self.report()}"
        match condition:
            case "service_completed_successfully":
                return code == 0
            case "service_healthy":
                if name not in self.healthy and self.check(name) == 0:
                    self.healthy.add(name)
                return name in self.healthy
            case _:
                return True

    def check(self, name: str) -> int:
        """The exit code of a service's health check."""
        service = self.services[name]
        words = [self._own(service, word) for word in service.healthcheck]
        with (self.folder / f"{name}.health.log").open("ab") as log:
            return subprocess.run(
                [self._program(words[0]), *words[1:]],
                env=self.environment(service),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                timeout=HEALTH_SECONDS_MAX,
                check=False,
            ).returncode

    def stop(self) -> dict[str, int]:
        """SIGTERM to who came last first, as `docker compose stop`; the exit codes of those that had not ended."""
        codes = {}
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            if process.poll() is None:
                process.terminate()
                try:
                    codes[name] = process.wait(STOP_SECONDS_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()
                    codes[name] = process.wait()
        return codes

    def report(self) -> str:
        """All logs."""
        return "\n".join(self._sections())

    def _sections(self) -> Iterator[str]:
        for path in sorted(self.folder.glob("*.log")):
            yield f"--- {path.name}\n{path.read_text()[-4000:]}"
