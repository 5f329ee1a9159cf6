"""Windows of recordings as a data set."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_client.data.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Windows(Stored):
    """Inputs are windows (channel, sample), float32. Overlapping windows share their samples in `values`, which is
    (sample, channel), all pieces one after another.
    """

    samples: int
    """Samples per window."""

    def inputs(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Windows (example, channel, sample)."""
        views = np.lib.stride_tricks.sliding_window_view(self.values, self.samples, axis=0)  # (start, channel, sample)
        return np.array(views[self.starts[chosen]], dtype=np.float32)
