"""Which device trains."""

from __future__ import annotations

import torch

from ptyinr_stream.errors import ConfigError


def choose_device(name: str) -> str:
    """Torch's name of the device to train on; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # `meta` and the like make tensors, but cannot compute
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"training.device: {name!r} cannot be used: {reason}; there are: auto, cpu, cuda") from error
    return name
