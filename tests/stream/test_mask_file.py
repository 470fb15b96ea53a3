"""A static mask from a file: three formats, one convention, and complaints that name the file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from ptyinr_stream.errors import ConfigError
from ptyinr_stream.mask_file import read_mask

MASK = np.ones((6, 8), np.uint8)
MASK[2, 3] = MASK[5, 0] = 0


def written(path: Path, mask: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, mask)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["mask"] = mask
    else:
        Image.fromarray(mask).save(path)
    return path


@pytest.mark.parametrize("name", ["mask.npy", "mask.h5", "mask.tif", "mask.tiff"])
def test_nonzero_is_trusted_in_every_format(tmp_path: Path, name: str) -> None:
    mask = read_mask(written(tmp_path / name, MASK))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, MASK == 1)


def test_a_mask_the_other_way_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mask\.npy: trusts 4\.2% of the pixels: nonzero means .* trusted"):
        read_mask(written(tmp_path / "mask.npy", 1 - MASK))


@pytest.mark.parametrize(
    ("mask", "says"), [(np.ones((2, 6, 8)), "one image"), (np.ones((6, 8), complex), "one image"), (MASK[:0], "one")]
)
def test_what_is_no_image_is_refused(tmp_path: Path, mask: np.ndarray, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_mask(written(tmp_path / "mask.npy", mask))


def test_a_file_that_is_missing_or_holds_no_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.npy: there is no such mask file"):
        read_mask(tmp_path / "nowhere.npy")
    (tmp_path / "text.tif").write_text("not an image")
    with pytest.raises(ConfigError, match=r"text\.tif: cannot be read as a mask"):
        read_mask(tmp_path / "text.tif")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = MASK
    with pytest.raises(ConfigError, match=r"other\.h5: there is no dataset `mask`; there are: data"):
        read_mask(tmp_path / "other.h5")
