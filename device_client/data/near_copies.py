"""Images that are almost the same: a hint, not a proof, for what the exact hashes of `leakage` cannot see.

Each image is averaged down to 16 x 16 and scaled to mean 0 and length 1; what all of them have in common, such as the
outline of a breast, is subtracted. Two whose correlation is over 0.99, in any of the 8 rotations and mirrors, are near
copies. Measured on mini-MIAS: of 837 images (crops of 48 and 224 pixels, whole films of 256) 3 have such a neighbour
with another name, and of synthetic films none (without the subtraction 84 %). Of images of 224 and 256 pixels it finds
all after JPEG of quality 30 or a shift by one pixel, of crops of 48 pixels 45 % and 14 %. It does not find windows that
overlap.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from device_client.data.leakage import is_image, rows_of
from device_client.task import Data, inputs_of
from device_client.task.batching import evaluation_batches

CORRELATION_MIN = 0.99
SIDE = 16
_COMMON_MIN = 20
_BATCH = 64
_BLOCK = 64

Array = npt.NDArray[np.float32]


def descriptors(data: Data, stop: Callable[[], bool]) -> Array:
    """The descriptor (image, 16, 16) of each image of 16 pixels a side or more, up to `stop`; plain ones have none."""
    found = list(_descriptors(data, stop))
    return np.stack(found) if found else np.empty((0, SIDE, SIDE), dtype=np.float32)


def near_copies(images: Array, others: Array, stop: Callable[[], bool]) -> int:
    """How many images (image, 16, 16) are near copies of one of the others, compared up to `stop`."""
    # The mean of a few images is hardly what all have in common, and that of one is the image.
    common = others.mean(axis=0) if len(others) >= _COMMON_MIN else np.zeros((SIDE, SIDE), dtype=np.float32)
    count, known = 0, _apart(others, common).T
    for start in range(0, len(images), _BLOCK):
        if stop() or not len(others):
            break
        block = images[start : start + _BLOCK]
        nearest = np.full(len(block), -1.0, dtype=np.float32)
        for quarter in range(4):
            turned = np.rot90(block, quarter, axes=(1, 2))
            for variant in (turned, turned[:, :, ::-1]):
                nearest = np.maximum(nearest, (_apart(variant, common) @ known).max(axis=1))
        count += int((nearest > CORRELATION_MIN).sum())
    return count


def _apart(images: Array, common: Array) -> Array:
    """What distinguishes images (image, 16, 16): rows of length 1, or of 0 where there is nothing."""
    rows = (images - common).reshape(len(images), SIDE * SIDE)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _descriptors(data: Data, stop: Callable[[], bool]) -> Iterator[Array]:
    for batch in evaluation_batches(data, _BATCH):
        for row in rows_of(inputs_of(batch)):
            if stop():
                return
            for image in row:
                if is_image(image) and min(image.shape[1:]) >= SIDE:
                    small = _averaged(image.mean(axis=0, dtype=np.float64))
                    length = float(np.linalg.norm(small))
                    if length > 0:
                        yield (small / length).astype(np.float32)


def _averaged(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over 16 x 16 fields, less the mean of all."""
    for axis, length in enumerate(grey.shape):
        edges = np.arange(SIDE + 1) * length // SIDE
        sums = np.add.reduceat(grey, edges[:-1], axis=axis)
        grey = sums / np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(grey - grey.mean(), dtype=np.float64)
