"""The labelled films of a folder as a torch data set, read from the cache as they are asked for."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device_client.data.dicom.folder.intake import FilmFolder
from device_client.data.dicom.geometry import Image, averaged
from device_client.data.faults import DataError


class FilmDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Image (1, height, width), 0 to 1, and label (an index into the classes).

    Memory does not grow with the folder: images are kept up to `kept_bytes`, and the others read from the cache.

    A film is scaled until it fits, with its chest wall at the left edge; what is left over is 0.
    """

    def __init__(
        self,
        folder: FilmFolder,
        classes: Sequence[str],
        size: tuple[int, int],
        *,
        patients: Collection[str] | None = None,
        kept_bytes: int = 0,
    ) -> None:
        """The films of these patients (pseudonyms); None: of all.

        Raises:
            DataError: none of them has a label, or one has a label that is no class.
        """
        films = [film for film in folder.labelled if patients is None or film.record.patient in patients]
        if not films:
            raise DataError("no film of the folder can be used and has a label; dicom-check says why")
        unknown = sum(film.label not in classes for film in films)
        if unknown:
            raise DataError(f"{unknown:,} films have labels that are none of the classes; correct the labels file")
        self._cache, self._size = folder.cache, size
        self._kept: dict[int, Image] = {}
        self._kept_max = kept_bytes // (4 * size[0] * size[1])
        self._films = [film.name for film in films]
        self.labels = np.array([list(classes).index(str(film.label)) for film in films], dtype=np.int64)
        self.persons = np.array([film.record.patient for film in films], dtype=np.str_)
        """Pseudonyms, for the guard over splits."""
        self.sources = np.array([film.record.image for film in films], dtype=np.str_)
        self.image_hashes = tuple(bytes.fromhex(film.record.pixel_hash) for film in films)
        """Of the stored values: the guard finds copies of a film, also turned or mirrored, without reading it."""
        self.attributes: dict[str, npt.NDArray[Any]] = {
            name: np.array([getattr(film.record, name) for film in films])
            for name in ("scanner", "laterality", "view", "height", "width")
        }
        """What may predict the label and should not, for `check-task --shortcuts`."""

    def __len__(self) -> int:
        return len(self._films)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self._kept.get(index)
        if image is None:
            image = fitted(self._cache.pixels(self._films[index]), self._size)
            if len(self._kept) < self._kept_max:
                self._kept[index] = image
        return torch.from_numpy(image)[None], torch.tensor(int(self.labels[index]))


def fitted(film: Image, size: tuple[int, int]) -> Image:
    """The film, scaled until it fits into `size`, at the left edge and in the middle of the height."""
    scale = min(size[0] / film.shape[0], size[1] / film.shape[1])
    height, width = (max(1, min(most, round(old * scale))) for most, old in zip(size, film.shape, strict=True))
    image = np.zeros(size, dtype=np.float32)
    top = (size[0] - height) // 2
    image[top : top + height, :width] = averaged(film, height, width)
    return image
