"""One run of the demo, stage by stage.

data, broker ─▶ teacher ─▶ aggregator, evaluator, devices ─▶ federation ─▶ outboxes drain ─▶ compare ─▶ report
                                                            └ the baselines beside it ─────▶ done ┘
"""

import time
from contextlib import ExitStack
from pathlib import Path

from operations.proxy import ProxyPool
from operations.watch.server import PageServer
from simulators.demo import page as of_demo
from simulators.demo.collect_results import collect_results
from simulators.demo.connection import Connection, connect
from simulators.demo.data import data_of
from simulators.demo.devices import Device
from simulators.demo.monitor import TICK_SECONDS, Monitor
from simulators.demo.preparation import PreparedRun, is_data_kept, prepare
from simulators.demo.settings import LAST_PAGE, DemoSettings
from simulators.network.embedded_broker import StartedBroker, launch
from simulators.processes.processes import Child, Processes
from simulators.reporting.baselines import BaselineResults
from simulators.reporting.device_timeline import EventReader
from simulators.reporting.live_view import View
from simulators.reporting.nouns import nouns_of
from simulators.reporting.results import RunResults
from wire_contract.main_metric import MainMetric

TEACHER_THREADS = 1
"""Two threads are faster on an idle machine, but many times slower on a busy one, where they wait for each other."""
TEACHER_SECONDS_MAX = 1_800.0
"""For the teacher and for everything else that a run requires. Programs that end unexpectedly are noticed at once, so
this limit only has to end what hangs, and can be generous to slow machines.
"""
START_SECONDS_MAX = 300.0
"""The same for the start of a program, which may import torch on a busy machine."""
GOODBYE_SECONDS_MAX = 2.0
"""For the aggregator's last status message to arrive through the broker."""


class DemoRun:
    """One run. The caller's `ExitStack` releases its resources, however it ends."""

    def __init__(
        self,
        settings: DemoSettings,
        folder: Path,
        view: View,
        processes: Processes,
        resources: ExitStack,
        *,
        began: float,
    ) -> None:
        """`folder`: for the programs' files; `began`: start of the run, monotonic clock."""
        self._settings = settings
        self._folder = folder
        self._resources = resources
        self._processes = processes
        self._monitor = Monitor(view, processes, began=began)
        self._teacher = self._folder / "teacher.safetensors"
        self._ledger = self._folder / "ledger.sqlite3"
        self._baseline_programs: list[Child] = []
        self._data_flags: list[str] = []

    def run(self) -> RunResults:
        """Runs all stages.

        Raises:
            TaskError: the task or its data cannot be loaded.
            Unreachable: the broker does not answer, or refuses the connection.
            ProcessError: a program of the demo failed.
        """
        monitor = self._monitor
        monitor.tick()
        page_wanted = self._settings.page
        broker = None if self._settings.broker else launch(self._processes, self._folder, websocket=page_wanted)
        data = data_of(self._settings, self._folder)
        self._data_flags = [] if data.folder is None else ["--data", str(data.folder)]
        prepared = prepare(self._settings, self._folder, data)
        monitor.nouns = nouns_of(prepared.task.name)
        objective = prepared.task.objective
        monitor.baselines = BaselineResults(epochs=0, main=MainMetric(objective.main, objective.higher_is_better))
        if is_data_kept(self._settings.task):  # read once, instead of once in each program
            self._processes.let_forks_have(
                "simulators.demo.preparation:read_data", self._settings.task, str(data.folder or "")
            )
        teacher, pace = self._start_teacher(prepared), self._start_pace()
        connection = connect(
            self._settings,
            broker,
            task=prepared.task.name,
            student=prepared.layout,
            processes=self._processes,
            seconds_max=prepared.plan.network_seconds_max if broker is None else START_SECONDS_MAX,
        )
        self._resources.callback(connection.observer.close)
        monitor.observer = connection.observer
        page = self._serve_page(prepared, connection, broker)
        servers = self._start_servers(prepared, connection)
        monitor.begin("teacher")
        if teacher is not None:
            monitor.wait_for(lambda: teacher.ended, seconds_max=TEACHER_SECONDS_MAX, what="the teacher")
        if pace is not None:
            prepared = prepared.fitted_to(self._epoch_seconds(pace))
        monitor.versions_planned = prepared.versions
        started_at = time.time()
        monitor.begin("devices start")
        self._start_devices(prepared, connection)
        monitor.begin("federation")
        self._federate(prepared)
        stopped_at = time.time()
        monitor.begin("outboxes drain")
        self._drain(prepared)
        self._finish(prepared, connection, servers, page)
        monitor.begin("baselines")
        self._await_baselines(prepared)
        monitor.page_url = ""  # the last frame stays on the screen, and the page is no longer served
        monitor.begin("report")
        return collect_results(
            prepared,
            connection,
            monitor,
            seed=self._settings.seed,
            ledger=self._ledger,
            teacher_file=self._teacher if teacher is not None else None,
            started_at=started_at,
            stopped_at=stopped_at,
        )

    def _serve_page(
        self, prepared: PreparedRun, connection: Connection, broker: StartedBroker | None
    ) -> PageServer | None:
        page = of_demo.serve(self._settings, broker, root=connection.access.root, task=prepared.task.name)
        if page is not None:
            self._resources.callback(page.close)
            self._monitor.page_url = page.url
        return page

    def _start_teacher(self, prepared: PreparedRun) -> Child | None:
        if prepared.task.teacher is None:
            return None
        arguments = [
            *("-m", "device_client", "pretrain-teacher", "--task", self._settings.task, *self._data_flags),
            *("--threads", str(TEACHER_THREADS), "--seed", str(self._settings.seed), "--out", str(self._teacher)),
        ]
        if prepared.plan.teacher_epochs is not None:
            arguments += ["--epochs", str(prepared.plan.teacher_epochs)]
        return self._processes.start("teacher", arguments, long_running=False, forked=True)

    def _start_pace(self) -> Child | None:
        """Measured while the teacher trains: then the cores are as busy as during the federation."""
        if self._settings.versions is not None:
            return None
        arguments = ["-m", "simulators", "pace", "--task", self._settings.task, *self._data_flags]
        if self._settings.devices is not None:
            arguments += ["--devices", str(self._settings.devices)]
        return self._processes.start("pace", arguments, long_running=False, events=True, forked=True)

    def _epoch_seconds(self, pace: Child) -> float:
        self._monitor.wait_for(lambda: pace.ended, seconds_max=TEACHER_SECONDS_MAX, what="measuring the pace")
        self._processes.check()
        return float(next(event["epoch_seconds"] for event in EventReader(pace.out).new()))

    def _start_servers(self, prepared: PreparedRun, connection: Connection) -> tuple[Child, Child]:
        """Evaluator and aggregator, in the order in which they are stopped."""
        plan, access = prepared.plan, connection.access
        aggregator = [
            *("-m", "aggregator", *access.flags("aggregator", task=prepared.task.name)),
            *("--ledger", str(self._ledger), "--initial-model", str(prepared.initial_model)),
            *("--updates-per-version", str(plan.updates_per_version), "--server-rate", str(plan.server_rate)),
            *("--sample-weight", plan.sample_weight),
            *("--devices-min", str(min(2, plan.updates_per_version))),  # K is 1 with two devices: either may be away
            *("--version-seconds", str(plan.version_seconds)),
        ]
        evaluator = [
            *("-m", "device_client", "evaluate", *access.flags("evaluator", task=self._settings.task)),
            *(*self._data_flags, "--log-format", "json"),
        ]
        start, environment = self._processes.start, access.environment
        return (
            start("evaluator", evaluator, environment=environment, forked=True),
            start("aggregator", aggregator, environment=environment),  # not forked: shows that it runs without torch
        )

    def _start_devices(self, prepared: PreparedRun, connection: Connection) -> None:
        proxies = self._resources.enter_context(ProxyPool(connection.upstream))
        for name, profile in prepared.profiles.items():
            device = Device(
                name=name,
                profile=profile,
                access=connection.access,
                task=self._settings.task,
                task_name=prepared.task.name,
                data_flags=self._data_flags,
                proxy=proxies.open(),
                folder=self._folder / name,
                teacher=self._teacher if prepared.task.teacher is not None else None,
                seed=self._settings.seed,
                schedule_versions=prepared.versions,
                processes=self._processes,
            )
            device.start()
            self._monitor.devices.append(device)
        self._monitor.wait_for(
            lambda: all(device.timeline.is_connected for device in self._monitor.devices),
            seconds_max=START_SECONDS_MAX,
            what="the start of the devices",
        )

    def _start_baselines(self, prepared: PreparedRun) -> None:
        """Two programs, so that they can use what the devices leave of both cores."""
        teacher = ["--teacher", str(self._teacher)] if prepared.task.teacher is not None else []
        arguments = [
            *("-m", "simulators", "baselines", "--task", self._settings.task, *self._data_flags, *teacher),
            *("--initial-model", str(prepared.initial_model), "--devices", str(len(prepared.profiles))),
            *("--epochs", str(prepared.epochs), "--seed", str(self._settings.seed)),
            *("--nice", str(prepared.plan.baselines_nice)),
        ]
        self._monitor.baselines = BaselineResults(epochs=prepared.epochs, main=self._monitor.baselines.main)
        for who in ("centralised", "local"):
            child = self._processes.start(
                who, [*arguments, "--who", who], long_running=False, required=False, events=True, forked=True
            )
            self._monitor.baseline_lines.append(EventReader(child.out))
            self._baseline_programs.append(child)

    def _await_baselines(self, prepared: PreparedRun) -> None:
        """Waits for the baselines; those that failed or take too long are missing in the report."""
        baselines, seconds_max = self._monitor.baselines, prepared.plan.baselines_seconds_max
        names = tuple(prepared.profiles)

        def is_over() -> bool:
            return baselines.is_complete(names) or all(child.ended for child in self._baseline_programs)

        self._monitor.finishes_within(is_over, seconds_max=seconds_max)
        self._monitor.tick()  # reads the last lines of programs that have just ended
        if baselines.is_complete(names):
            return
        failed = [child for child in self._baseline_programs if child.process.poll() not in {None, 0}]
        late = [child for child in self._baseline_programs if not child.ended]
        reasons = [f"a program failed, see {child.log}" for child in failed]
        if late:
            reasons.append(f"not finished {seconds_max:g} s after the federation")
        baselines.given_up = "; ".join(reasons)
        self._processes.stop(*late, patience_seconds=1.0)  # they have no state worth saving
        self._monitor.announce(f"missing in the report: {', '.join(baselines.missing(names))}: {baselines.given_up}")

    def _federate(self, prepared: PreparedRun) -> None:
        """Runs until the planned version or the time limit; outages begin and end at their share of that."""
        began = time.monotonic()
        # Baselines start later: now all devices are in their first round, which includes one-time set-up.
        self._monitor.finishes_within(lambda: self._monitor.version > 0, seconds_max=prepared.fleet_seconds_max / 2)
        self._start_baselines(prepared)

        def is_over() -> bool:
            seconds_share = (time.monotonic() - began) / prepared.fleet_seconds_max
            versions_share = self._monitor.version / prepared.versions
            if not all(device.timeline.merged for device in self._monitor.devices):
                versions_share = min(versions_share, 0.99)  # only the end waits for the slowest device's first merge
            share = max(versions_share, seconds_share)
            for device in self._monitor.devices:
                device.follow(share)
            return share >= 1.0

        self._monitor.finishes_within(is_over, seconds_max=prepared.fleet_seconds_max + 10 * TICK_SECONDS)

    def _drain(self, prepared: PreparedRun) -> None:
        """Brings all devices online without training, until every outbox has been empty for `settle_seconds`."""
        devices, plan = self._monitor.devices, prepared.plan
        for device in devices:
            device.stop_training()
            device.come_back()
        empty_since: float | None = None

        def is_settled() -> bool:
            nonlocal empty_since
            if not all(device.is_drained for device in devices):
                empty_since = None
                return False
            empty_since = empty_since or time.monotonic()
            return time.monotonic() - empty_since >= plan.settle_seconds

        if not self._monitor.finishes_within(is_settled, seconds_max=plan.drain_seconds_max):
            full = [device.name for device in devices if not device.is_drained]
            self._monitor.announce(f"updates still waiting after {plan.drain_seconds_max:g} s: {', '.join(full)}")

    def _finish(
        self, prepared: PreparedRun, connection: Connection, servers: tuple[Child, Child], page: PageServer | None
    ) -> None:
        """Stops the devices, waits for the evaluation of the last version, and stops the servers."""
        devices = self._monitor.devices
        with connection.observer.lock:
            present = connection.observer.observations.retained_payloads(
                "presence"
            )  # before the devices publish "offline"
        self._processes.stop(*(device.child for device in devices if device.child is not None))
        for device in devices:
            device.look()
            device.timeline.finish(time.time())

        def is_evaluated() -> bool:
            with connection.observer.lock:
                observations = connection.observer.observations
                return any(told.version == observations.version for told in observations.evaluations)

        seconds_max = prepared.plan.evaluation_seconds_max
        if not self._monitor.finishes_within(is_evaluated, seconds_max=seconds_max):
            self._monitor.announce(
                f"the last version was not evaluated within {seconds_max:g} s; the report uses an earlier one"
            )
            self._monitor.wait_for(
                lambda: bool(connection.observer.observations.evaluations),
                seconds_max=START_SECONDS_MAX,
                what="the evaluation of any version",
            )
        self._processes.stop(*servers)
        if page is not None:
            self._end_page(page, connection, present)
        connection.observer.delete_retained()

    def _end_page(self, page: PageServer, connection: Connection, present: dict[str, bytes]) -> None:
        """Shows the final state: the broker's retained messages, with the devices' presence before they stopped."""

        def has_said_goodbye() -> bool:
            with connection.observer.lock:
                status = connection.observer.observations.aggregator
            return status is None or status.status != "online"

        self._monitor.finishes_within(has_said_goodbye, seconds_max=GOODBYE_SECONDS_MAX)
        with connection.observer.lock:
            told = connection.observer.observations.retained_payloads("model", "aggregator")
        of_demo.end(page, told | present, at=time.time(), path=self._settings.out / LAST_PAGE)
