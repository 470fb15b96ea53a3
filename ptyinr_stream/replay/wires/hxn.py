"""The beamline as it is, which today is `proxy`: a name of its own, so that rehearsals stay true when it changes."""

from __future__ import annotations

from .proxy import Encoder

__all__ = ["Encoder"]
