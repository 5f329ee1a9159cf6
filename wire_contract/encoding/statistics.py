"""Running statistics of activations (BatchNorm and its kind) in a form that can be averaged: mean m, second moment s.

A network keeps mean and variance. Variances cannot be averaged: those of two persons with different means say nothing
of the spread between the persons, and a sum of *differences* of variances can be negative, which makes the network
return NaN. The second moment s = v + m² can be averaged, and the law of total variance then holds by itself: with
m = Σwᵢmᵢ and s = Σwᵢsᵢ for weights of sum 1, s - m² = Σwᵢvᵢ + Σwᵢ(mᵢ - m)² is the variance of the mixture.

So devices put m and s into the vector, and take v = s - m² out of it. Everything is computed in float64: s - m² cancels
digits, and m² has twice as many digits as m.

Updates with old bases, and lossy encodings, can still lead to s < m². A variance is therefore never less than a tiny
share of m².
"""

import base64
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from wire_contract.errors import LayoutError
from wire_contract.layout import Layout, Vector

Float64s = npt.NDArray[np.float64]

VARIANCE_SHARE_MIN = 2.0**-20
"""Smallest variance, as a share of m². A float32 s cannot represent less than 2⁻²⁴ of itself, so a variance below the
share is mostly rounding error. It is not larger, because real inputs can have a standard deviation of a thousandth of
their mean."""

MOMENTS_KEY = "second_moments"
"""Metadata of a safetensors file: base64 of the second moments, little-endian float32, in the order of the layout."""


def variance_of(mean: npt.ArrayLike, second_moment: npt.ArrayLike) -> Float64s:
    """The variance v = s - m² of each channel, at least `VARIANCE_SHARE_MIN` · m², in float64; same shape."""
    square = np.square(np.asarray(mean, dtype=np.float64))
    variance: Float64s = np.maximum(np.asarray(second_moment, dtype=np.float64) - square, VARIANCE_SHARE_MIN * square)
    return variance


def second_moment_of(mean: npt.ArrayLike, variance: npt.ArrayLike) -> Float64s:
    """The second moment s = v + m² of each channel in float64; same shape."""
    moment: Float64s = np.asarray(variance, dtype=np.float64) + np.square(np.asarray(mean, dtype=np.float64))
    return moment


def to_stored(layout: Layout, vector: Vector) -> tuple[dict[str, Vector], dict[str, str]]:
    """The tensors of a safetensors file as a network has them, with variances, and the metadata that goes with them.

    So a file can be loaded into a network by any program. The metadata has the second moments, because rounding makes
    it impossible to recover them exactly from the variances, and the digest of a version is that of its second moments.
    """
    # Copied, because safetensors would write the whole array behind a view.
    tensors = {name: np.array(view, order="C") for name, view in layout.views(vector).items()}
    if not layout.has_statistics:
        return tensors, {}
    _, moments = layout.moments(vector)
    for mean, second_moment in layout.pairs:
        tensors[second_moment] = variance_of(tensors[mean], tensors[second_moment]).astype(np.float32)
    return tensors, {MOMENTS_KEY: base64.b64encode(moments.astype("<f4").tobytes()).decode("ascii")}


def from_stored(layout: Layout, tensors: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> Vector:
    """The vector (layout.size,) of a safetensors file.

    Raises:
        LayoutError: the tensors do not fit the layout, or the metadata is of other statistics.
    """
    vector = layout.flatten(tensors)
    if not layout.has_statistics:
        return vector
    mean, moments = layout.moments(vector)
    variance = moments.copy()
    stored = metadata.get(MOMENTS_KEY)
    if stored is None:  # another program wrote the file
        moments[...] = second_moment_of(mean, variance)
        return vector
    try:
        moments[...] = np.frombuffer(base64.b64decode(stored, validate=True), dtype="<f4")
    except ValueError:
        raise LayoutError(f"metadata {MOMENTS_KEY}: not base64 of {moments.size} float32 numbers") from None
    if not np.array_equal(variance_of(mean, moments).astype(np.float32), variance):
        raise LayoutError(f"metadata {MOMENTS_KEY}: does not belong to the running variances in the file")
    return vector
