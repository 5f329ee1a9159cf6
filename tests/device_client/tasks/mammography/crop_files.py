"""Small generated files of crops: those of findings have a bright spot in the middle."""

from pathlib import Path

import numpy as np

from device_client.tasks.mammography.crops import LARGE_FILE, LARGE_SIDE, SMALL_FILE, SMALL_SIDE

PATIENTS = 40


def write_crops(folder: Path, *, large: bool, patients: int = PATIENTS, first: int = 1, split: bool = False) -> Path:
    """Writes two crops of each patient; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random, side = np.random.default_rng(first), LARGE_SIDE if large else SMALL_SIDE
    patient = np.repeat(np.arange(first, first + patients), 2)
    label = np.repeat(np.arange(patients) % 3, 2)
    images = random.integers(60, 100, (len(patient), side, side)).astype(np.uint8)
    spot = slice(side // 2 - side // 12, side // 2 + side // 12)
    images[label > 0, spot, spot] += 100
    fields = {
        "patches" if large else "images": images,
        "label" if large else "severity": label.astype(np.uint8) if large else np.array(list("ABM"))[label],
        "patient": patient.astype(np.int16),
        "image_id": np.array([f"film{number}" for number in range(len(patient))]),
    }
    if split:
        fields["split"] = np.where(patient % 4 == 0, "test", "train")
    if not large:
        rows = random.permutation([(image, variant) for image in range(len(patient)) for variant in range(12)])
        fields |= {
            "rows_all": rows.astype(np.int16),
            "rows_calc": rows[: len(rows) // 4].astype(np.int16),
            "variant_quarter_turns": (np.arange(12) % 4).astype(np.uint8),
            "variant_mirrored": np.arange(12) // 4 % 2 == 1,
        }
    np.savez(folder / (LARGE_FILE if large else SMALL_FILE), **fields)
    return folder
