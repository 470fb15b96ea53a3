"""A starting probe from a file: `.npy`, or the dataset `probe` of an HDF5 file such as a `result.h5`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ptyinr_stream.errors import ConfigError


def read_probe(path: Path) -> np.ndarray:
    """Read (modes, h, w) or (h, w) complex numbers.

    Raises:
        ConfigError: the file is missing, of another kind, or holds no complex field.
    """
    try:
        if path.suffix == ".npy":
            probe = np.load(path)  # refuses pickled objects
        else:
            with h5py.File(path) as file:
                if not isinstance(dataset := file.get("probe"), h5py.Dataset):
                    raise ConfigError(f"{path}: has no dataset 'probe'; it holds {', '.join(file) or 'nothing'}")
                probe = dataset[()]
    except (EOFError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a probe (.npy, or HDF5 with 'probe'): {error}") from error
    if not isinstance(probe, np.ndarray) or not np.iscomplexobj(probe) or probe.ndim not in (2, 3):
        what = f"{probe.dtype} {probe.shape}" if isinstance(probe, np.ndarray | np.generic) else type(probe).__name__
        raise ConfigError(f"{path}: holds {what}; a probe is complex, (modes, h, w) or (h, w)")
    return probe
