"""Reads one mammogram: DICOM file → `Film`, or a refusal that identifies nobody."""

from pathlib import Path

import numpy as np

from device_client.data.dicom.breast import cropped, find_breast
from device_client.data.dicom.decoding.stored_values import stored_values
from device_client.data.dicom.film import PIXELS_MAX, Film, FilmRefused, FilmSettings
from device_client.data.dicom.film_hash import film_hash
from device_client.data.dicom.geometry import Image, Placement, averaged, placement
from device_client.data.dicom.header import FilmHeader, opened
from device_client.data.dicom.intensity import intensities, is_inverted
from device_client.data.dicom.tags import layout_of, text
from device_client.data.faults import DataError

_CERTAIN = 0.5
"""Of the chest wall's side as seen; below it the tags are believed."""


def read_film(path: Path | str, settings: FilmSettings) -> Film:
    """The mammogram of a file, whatever its bytes are.

    Raises:
        FilmRefused: the file gives no film; with a code, and a sentence without identifiers.
        DataError: pydicom is not installed.
    """
    refusal: FilmRefused
    try:
        return _film(path, settings)
    except FilmRefused as error:
        refusal = FilmRefused(error.code, str(error))
    except DataError:
        raise
    except MemoryError:
        refusal = FilmRefused("too_large", "the film needs more memory than there is; close other programs")
    except Exception:  # noqa: BLE001 — a damaged file may trip any step; a folder of thousands goes on
        refusal = FilmRefused("damaged", "the file is damaged; export it again")
    raise refusal  # outside of the handlers, so that no message and no local variable of them is chained


def _film(path: Path | str, settings: FilmSettings) -> Film:
    warnings: list[str] = []
    with opened(path) as (header, content):
        dataset = header.dataset
        place = placement(dataset, warnings)
        _check_modality(header, place, warnings)
        layout = layout_of(dataset)
        stored = stored_values(header, layout, content)
        film = intensities(dataset, stored, layout, warnings)
        pixel_hash = film_hash(stored, inverted=is_inverted(dataset))
    del stored
    if float(film.max()) - float(film.min()) < 1e-6:  # noqa: PLR2004
        raise FilmRefused("not_a_breast", "the film is of one brightness; leave it out")
    if text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING":
        warnings.append("a raw film (FOR PROCESSING): its intensities are not those of films for presentation")
    film, chest_left = _breast(film, place, settings, warnings)
    if place.head_down:
        film = film[::-1]
    if not chest_left:
        film = film[:, ::-1]
    film, spacing_mm = _resampled(film, place, settings, warnings)
    return Film(
        pixels=np.ascontiguousarray(film, dtype=np.float32),
        laterality=place.laterality,
        view=place.view,
        spacing_mm=spacing_mm,
        scanner=header.scanner,
        identity=header.identity,
        pixel_hash=pixel_hash,
        warnings=tuple(warnings),
    )


def _check_modality(header: FilmHeader, place: Placement, warnings: list[str]) -> None:
    """Modality MG; or RG (digitised film) with a view of a breast."""
    modality = text(header.dataset, "Modality").upper()
    if not modality:
        raise FilmRefused("missing_tag", "Modality is missing; export the file again")
    if text(header.dataset, "QualityControlImage").upper() == "YES":
        raise FilmRefused("not_a_breast", "this is a quality control image of a phantom; leave it out")
    if modality == "RG" and place.view and place.laterality:
        warnings.append("a digitised film of modality RG: taken for a mammogram by its view and laterality")
    elif modality != "MG":
        raise FilmRefused("modality", "the modality is not mammography (MG); leave the file out")


def _breast(film: Image, place: Placement, settings: FilmSettings, warnings: list[str]) -> tuple[Image, bool]:
    """The film, cropped if that is set, and whether the chest wall is at the left."""
    try:
        breast = find_breast(film)
    except FilmRefused:
        if settings.crop:
            raise
        warnings.append("no breast stands out from a background; the film is not checked by what it shows")
        return film, place.chest_left is not False
    chest_left = breast.chest_left if place.chest_left is None else place.chest_left
    if chest_left != breast.chest_left and breast.certainty > _CERTAIN:
        warnings.append("the tags name another side for the chest wall than the film shows; the film is followed")
        chest_left = breast.chest_left
    return (cropped(film, breast.mask) if settings.crop else film), chest_left


def _resampled(
    film: Image, place: Placement, settings: FilmSettings, warnings: list[str]
) -> tuple[Image, float | None]:
    if place.spacing_mm is None:
        if settings.spacing_mm is not None:
            warnings.append("the file does not tell the spacing of its pixels; they are left as they are")
        return film, None
    by_row, by_column = place.spacing_mm
    wanted = min(by_row, by_column) if settings.spacing_mm is None else settings.spacing_mm
    height, width = (max(1, round(n * mm / wanted)) for n, mm in zip(film.shape, (by_row, by_column), strict=True))
    if height * width > PIXELS_MAX:
        raise FilmRefused("too_large", f"at {wanted} mm the film would have more than {PIXELS_MAX:,} pixels")
    return (film if (height, width) == film.shape else averaged(film, height, width)), wanted
