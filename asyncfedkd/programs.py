"""`asyncfedkd PROGRAM …`: the table of programs.

Each is imported when it is asked for, so that the aggregator runs where PyTorch is not installed.
"""

from wire_contract.program.command_line import ProgramReference, ProgramSuite

SUITE = ProgramSuite(
    name="asyncfedkd",
    groups={
        "the two sides": {
            "aggregator": ProgramReference(
                module="aggregator.__main__",
                summary="merges what devices learn and publishes models; also status, telemetry, keys and certificates",
            ),
            "device": ProgramReference(
                module="device_client.__main__",
                summary="run: learns on this device's data; also evaluate, export, initial-model, pretrain-teacher "
                "and more",
            ),
        },
        "to try it, and to look on": {
            "demo": ProgramReference(
                module="simulators.__main__",
                command="demo",
                summary="devices, aggregator and broker on this machine teach one model; then a report",
            ),
            "broker": ProgramReference(
                module="simulators.__main__", command="broker", summary="an MQTT broker for trying things out"
            ),
            "watch": ProgramReference(
                module="operations.__main__", command="watch", summary="shows a task live, as a page in the browser"
            ),
            "doctor": ProgramReference(
                module="operations.__main__",
                command="doctor",
                summary="says whether a broker will do, and what to mend",
            ),
        },
        "to measure": {
            "benchmarks": ProgramReference(
                module="benchmarks.__main__",
                summary="accuracy, bytes on the wire, and what telemetry costs; see its --help",
            ),
            "baselines": ProgramReference(
                module="simulators.__main__",
                command="baselines",
                summary="what a model learns without federation",
            ),
            "pace": ProgramReference(
                module="simulators.__main__", command="pace", summary="how fast this machine learns"
            ),
        },
    },
)
main = SUITE.main
