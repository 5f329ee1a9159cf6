"""What is refused, by code; and no text shows who is on a film."""

import io
import logging
import pickle
import struct
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.data.dicom.decoding.decoder import Decoder
from device_client.data.dicom.film import PIXELS_MAX, FilmRefused, FilmSettings
from device_client.data.dicom.header import read_header
from device_client.data.dicom.reading import read_film
from tests.device_client.data.dicom.dicom_files import CANARY, SYNTAXES, breast, content, dataset

CROPPED = FilmSettings(spacing_mm=0.1, crop=True)
ONE = breast()


def refused(folder: Path, file: bytes) -> FilmRefused:
    path = folder / "CANARY-name.dcm"
    path.write_bytes(file)
    with pytest.raises(FilmRefused) as caught:
        read_film(path, CROPPED)
    return caught.value


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "modality": ("modality", {"Modality": "CT"}),
    "no modality": ("missing_tag", {"Modality": None}),
    "colour": ("colour", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
    "palette": ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "frames": ("multi_frame", {"NumberOfFrames": 40}),
    "no rows": ("missing_tag", {"Rows": None}),
    "no photometric": ("missing_tag", {"PhotometricInterpretation": None}),
    "zero rows": ("size", {"Rows": 0}),
    "huge": ("too_large", {"Rows": 65535, "Columns": 65535}),
    "bits": ("size", {"BitsStored": 13, "HighBit": 3}),
    "longer": ("length", {"Rows": 97}),
    "no pixels": ("no_pixels", {"PixelData": None}),
    "slope": ("intensity", {"RescaleSlope": 0}),
    "window": ("intensity", {"WindowCenter": 5, "WindowWidth": 0}),
    "window kind": ("intensity", {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CANARY"}),
    "quality control": ("not_a_breast", {"QualityControlImage": "YES"}),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_named_refusal(tmp_path: Path, case: str) -> None:
    code, tags = CASES[case]
    assert refused(tmp_path, content(dataset(ONE, **tags))).code == code


def test_refusals_of_bytes(tmp_path: Path) -> None:
    whole = content(dataset(ONE))
    assert refused(tmp_path, b"").code == "not_dicom"
    assert refused(tmp_path, b"\x89PNG" + bytes(500)).code == "not_dicom"
    assert refused(tmp_path, whole[:-100]).code == "length"
    assert refused(tmp_path, whole[:200]).code in {"damaged", "missing_tag"}
    assert refused(tmp_path, content(dataset(ONE), "jpeg_2000")[:-400]).code == "length"
    assert refused(tmp_path, content(dataset(np.full((96, 64), 7)))).code == "not_a_breast"
    flat = content(dataset(np.random.default_rng(0).integers(2000, 2100, (96, 64))))
    assert refused(tmp_path, flat).code == "not_a_breast"
    with pytest.raises(FilmRefused) as caught:
        read_film(tmp_path / "nothing", CROPPED)
    assert caught.value.code == "not_readable"


def test_a_damaged_stream_cannot_be_decoded_and_the_next_film_can(tmp_path: Path) -> None:
    for syntax in ("rle", "jpeg_ls", "jpeg_2000", "jpeg_lossless"):
        whole = content(dataset(ONE), syntax)
        at = whole.rindex(struct.pack("<HH", 0xFFFE, 0xE000)) + 8
        damaged = whole[:at] + bytes(64) + whole[at + 64 :]
        assert refused(tmp_path, damaged).code in {"cannot_decode", "not_a_breast", "length"}
        (tmp_path / "film.dcm").write_bytes(whole)
        assert read_film(tmp_path / "film.dcm", CROPPED).pixels.max() > 0


def test_a_decoder_that_ends_or_outlasts_its_time_refuses_one_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(dataset(ONE), "jpeg_ls")
    decoder = Decoder(patience_seconds=0)
    monkeypatch.setattr("device_client.data.dicom.decoding.stored_values.DECODER", decoder)
    assert refused(tmp_path, whole).code == "cannot_decode"
    assert decoder._child is None, "it was ended"
    decoder._patience_seconds = 60
    assert read_film(tmp_path / "CANARY-name.dcm", CROPPED).pixels.max() > 0
    child = decoder._child
    assert child is not None
    child.kill()
    child.wait()
    assert read_film(tmp_path / "CANARY-name.dcm", CROPPED).pixels.max() > 0, "by a new one"
    decoder.close()


def test_a_small_deflated_file_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_client.data.dicom.header.FILE_BYTES_MAX", 10_000)
    assert refused(tmp_path, content(dataset(ONE * 0), "deflated")).code == "too_large"


def test_the_pixel_limit_is_that_of_real_films() -> None:
    assert 7_000 * 6_000 < PIXELS_MAX < 10_000 * 10_000


def test_a_refusal_is_the_same_in_another_process() -> None:
    copied = pickle.loads(pickle.dumps(FilmRefused("colour", "grey only")))
    assert (copied.code, str(copied)) == ("colour", "grey only")


def shown(error: BaseException) -> str:
    """All that a log could show of an exception: its chain and the local variables of its frames."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format()) + repr(
        (error, error.args, error.__context__, error.__cause__, error.__dict__)
    )


CANARIES = [*CANARY.values(), "CANARY", "Canary"]
BAD_VALUES = {
    "PatientBirthDate": b"CANARY-no-date\0",
    "StudyDate": b"CANARY-9",
    "AccessionNumber": b"CANARY" * 20,
    "SOPInstanceUID": b"1.CANARY.2",
    "Rows": b"CANARY",
}


def planted() -> list[bytes]:
    """Whole films, each refusal, and files whose identifier tags pydicom warns of or stumbles over."""
    files = [content(dataset(ONE), syntax) for syntax in SYNTAXES]
    files += [content(dataset(ONE, **tags)) for _, tags in CASES.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = content(dataset(ONE))
    for name, value in CANARY.items():
        at = whole.rindex(value.encode())
        for bad in (b"\xff\xfe\x80CANARY", *BAD_VALUES.values()):
            files.append(whole[:at] + bad[: len(value)].ljust(len(value)) + whole[at + len(value) :])
            files.append(whole[: at - 2] + b"\xf0\xff" + whole[at:])  # the length goes beyond the file
            files.append(whole[: at - 4] + b"ZZ" + whole[at - 2 :])  # an unknown VR
        assert name
    return files


def test_no_identifier_in_any_text(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    path = tmp_path / "CANARY-name.dcm"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for file in planted():
            path.write_bytes(file)
            for read in (lambda: read_film(path, CROPPED), lambda: read_header(path)):
                try:
                    got: Any = read()
                except FilmRefused as error:
                    told.append(shown(error))
                else:
                    told += [repr(got), str(got), repr(got.identity), f"{got.identity}"]
                    told += getattr(got, "warnings", ())
    logging.getLogger().removeHandler(handler)
    out = capfd.readouterr()
    everything = "\n".join([*told, stream.getvalue(), caplog.text, *(str(one.message) for one in caught), *out])
    assert len(told) > 200
    # Local paths of this test stand in tracebacks of its own frames, which quote source lines.
    ours = "\n".join(line for line in everything.splitlines() if "tests/device_client" not in line)
    assert [word for word in CANARIES if word in ours] == []
