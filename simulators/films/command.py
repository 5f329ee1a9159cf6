"""`films`: writes a folder of synthetic mammograms."""

from pathlib import Path

from pydantic import Field

from device_client.data.faults import DataError
from simulators.films.folder import LABELS, Plan, make_films
from wire_contract.program.command_settings import CommandSettings, UsageError


class FilmsSettings(CommandSettings):
    """Writes synthetic mammograms as DICOM files, with labels: drawn by a program, they show nobody."""

    only_flags = ("out", "patients", "films", "rows", "seed", "faults", "dicomdir")

    out: Path = Field(description="folder to make; must be new or empty")
    patients: int = Field(6, ge=1, le=10_000, description="number of patients")
    films: int = Field(4, ge=1, le=4, description="films of each patient")
    rows: int = Field(800, ge=200, le=4000, description="rows of a film; columns: three quarters of it")
    seed: int = Field(0, ge=0, description="the same seed gives the same films")
    faults: bool = Field(False, description="also write files that cannot be used, or should not be handed out")
    dicomdir: bool = Field(False, description="also write a DICOMDIR, and folders as it names them")


def make(settings: FilmsSettings) -> None:
    """Writes the folder.

    Raises:
        UsageError: the folder has files already or cannot be written, or pydicom is not installed.
    """
    plan = Plan(
        patients=settings.patients,
        films=settings.films,
        rows=settings.rows,
        seed=settings.seed,
        faults=settings.faults,
        dicomdir=settings.dicomdir,
    )
    try:
        if settings.out.exists() and any(settings.out.iterdir()):
            raise UsageError(f"{settings.out} has files already; give a new folder")
        count = make_films(settings.out, plan)
    except DataError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{settings.out} cannot be written: {error.strerror or error}") from None
    print(f"{settings.out}: {count:,} synthetic films of {settings.patients:,} patients, and {LABELS}")
