"""Ten thumbnails of training pictures, and which of them a picture shows."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from service.demo_model.training.matching import Matcher


class Thumbnails:
    """The thumbnails' names ("red apple"), and the nearest of them to a picture."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("*.png"))
        self.names = [path.stem.replace("-", " ") for path in paths]
        pictures = []
        for path in paths:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGBA"), np.float32).copy()
            pixels[..., :3] *= pixels[..., 3:] / 255
            pictures.append(torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1))
        self._matcher = Matcher(torch.stack(pictures))

    def nearest(self, image: npt.NDArray[np.uint8]) -> str:
        """The name of the thumbnail that an RGB picture (height, width, 3) is nearest to."""
        return self.names[self._matcher.match(image, 1).rows[0]]
