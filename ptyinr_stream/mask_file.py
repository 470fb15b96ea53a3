"""A detector's static mask from a file: .npy, `mask` of an HDF5 file, or TIFF; nonzero where a pixel may be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ptyinr_stream.errors import ConfigError

LEAST_TRUSTED = 0.5
"""Of a mask's pixels: one that trusts fewer has 0 where a pixel is good, as DECTRIS's and CXI's masks have."""


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read (rows, columns) of the image as the detector sends it, True where trusted.

    Raises:
        ConfigError: there is no such file or mask in it, it is no image, or it trusts less than half of the pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such mask file")
    try:
        values = _values(path)
    except (OSError, ValueError, EOFError, UnidentifiedImageError) as error:
        raise ConfigError(f"{path}: cannot be read as a mask: {error}") from error
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not values.size:
        raise ConfigError(
            f"{path}: holds {values.dtype} {values.shape}: a mask is one image (rows, columns) of numbers"
        )
    trusted = values != 0
    if trusted.mean() < LEAST_TRUSTED:
        raise ConfigError(
            f"{path}: trusts {trusted.mean():.1%} of the pixels: nonzero means that a pixel may be trusted; is it "
            "the other way round?"
        )
    return trusted


def _values(path: Path) -> NDArray[Any]:
    if path.suffix == ".npy":
        return np.load(path)  # refuses pickled objects
    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            mask = file.get("mask")
            if not isinstance(mask, h5py.Dataset):
                raise ConfigError(f"{path}: there is no dataset `mask`; there are: {', '.join(file)}")
            return np.asarray(mask[()])
    with Image.open(path) as image:
        return np.asarray(image)
