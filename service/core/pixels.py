"""Pictures and masks as arrays: what all layers below the files speak of."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""One channel, shape (height, width); 255 = repaint, 0 = keep."""
