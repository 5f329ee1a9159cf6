"""`dicom-check`: what of a folder of mammograms can be used."""

import json
import textwrap

from device_client.data.dicom.folder.check import as_json, look_through, shown
from device_client.data.dicom.folder.labels import read_labels
from device_client.data.faults import DataError
from device_client.trial.settings import DicomCheckSettings
from wire_contract.program.command_settings import UsageError

_COLUMNS = 80


def dicom_check(settings: DicomCheckSettings) -> None:
    """Prints the counts.

    Raises:
        UsageError: no film can be used, or the folder or the labels cannot be read.
    """
    try:
        _check(settings)
    except DataError as error:
        raise UsageError(str(error)) from None


def _check(settings: DicomCheckSettings) -> None:
    labels = None if settings.labels is None else read_labels(settings.labels)
    report = look_through(settings.folder, labels)
    if settings.json_output:
        print(json.dumps(as_json(report), indent=2))
    else:
        for line in shown(report):
            print(textwrap.fill(line, _COLUMNS - 1, subsequent_indent=" " * 9))
    if not report.usable:
        raise DataError("no file of the folder can be used")
