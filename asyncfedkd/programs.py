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
                summary="merges updates and publishes models; also status, telemetry, keys and certificates",
            ),
            "device": ProgramReference(
                module="device_client.__main__",
                summary="run: trains on this device's data; also evaluate, export, initial-model, pretrain-teacher "
                "and more",
            ),
        },
        "to try and to observe": {
            "demo": ProgramReference(
                module="simulators.__main__",
                command="demo",
                summary="a complete federation on this machine: devices, aggregator and broker; then a report",
            ),
            "broker": ProgramReference(
                module="simulators.__main__", command="broker", summary="an MQTT broker for experiments"
            ),
            "new-task": ProgramReference(
                module="device_client.__main__",
                command="new-task",
                summary="writes a task of your own to start from, with its test",
            ),
            "films": ProgramReference(
                module="simulators.__main__",
                command="films",
                summary="writes synthetic mammograms as DICOM files, to try a task of films with",
            ),
            "watch": ProgramReference(
                module="operations.__main__", command="watch", summary="shows a task live, on a page in the browser"
            ),
            "doctor": ProgramReference(
                module="operations.__main__",
                command="doctor",
                summary="checks whether a broker is suitable, and says how to fix what is not",
            ),
        },
        "to measure": {
            "benchmarks": ProgramReference(
                module="benchmarks.__main__",
                summary="accuracy, bytes on the wire, cost of telemetry; see its --help",
            ),
            "baselines": ProgramReference(
                module="simulators.__main__",
                command="baselines",
                summary="accuracy of models that are trained without federation",
            ),
            "pace": ProgramReference(
                module="simulators.__main__", command="pace", summary="how fast this machine trains"
            ),
        },
    },
)
main = SUITE.main
