"""Everything that can go wrong on purpose, and what happens next.

* StreamError                 every error of this package; the command line prints it in one line and exits with 2
  + ConfigError               a configuration cannot be used; nothing was started
  + ScanFileError             a recorded scan cannot be read; it names the file and what is wrong in it
  + WireError                 a message cannot be understood; it is counted and passed over, the stream goes on
  + GeometryError             a scan's optics are unknown or contradict its frames; that scan is not reconstructed
  + EndpointError             an address cannot be bound or reached
  + HandoverError             a process of this or an earlier life of the daemon is stuck; another try may do better
  + CheckpointError           what training has learned cannot be written; training goes on, the next one is tried
  + FrameStoreError           frames cannot be kept on disk; those that are there are trained, the scan is recorded on
  + DeviceError               the device is lost or full; the scan is recorded on, and a restart takes it up again
  + PublishError              a publisher cannot deliver; training goes on, the newest snapshot is tried again
"""


class StreamError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(StreamError):
    """A configuration is wrong: the message names the file, the key, and what would have been right."""


class ScanFileError(StreamError):
    """A recorded scan is missing, torn or inconsistent."""


class WireError(StreamError):
    """A message does not follow its format; `kind` is the counter it belongs to."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class GeometryError(StreamError):
    """The optics of a scan cannot be determined."""


class EndpointError(StreamError):
    """An address is in use, unreachable or malformed."""


class HandoverError(StreamError):
    """What a daemon needs is still held by a process of an earlier one, or its own process does not begin."""


class PublishError(StreamError):
    """A snapshot could not be delivered."""


class CheckpointError(StreamError):
    """A checkpoint could not be written."""


class FrameStoreError(StreamError):
    """Frames could not be written for training, or not be read back."""

    frames = 0
    """That are lost to training by it; a recording has them."""


class DeviceError(StreamError):
    """The device of the training cannot be used any more."""
