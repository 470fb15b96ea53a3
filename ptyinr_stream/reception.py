"""From the sockets to joined frames: receivers, files, inbox, recorder and intake put together, each a thread.

    documents, frames, positions -> inbox -> intake -> `deliver`
       a thread each               recorder <-'

`reception_process` runs the same in a process of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.channels import Inbox
from ptyinr_stream.config import Config, StreamConfig
from ptyinr_stream.frame_blocks import Memory, own_memory
from ptyinr_stream.intake import ROADS, Intake
from ptyinr_stream.outputs import Output
from ptyinr_stream.recorder import Recorder, RecorderStatus
from ptyinr_stream.recordings.folder import unfinished
from ptyinr_stream.recordings.ownership import Ownership
from ptyinr_stream.recordings.resumptions import Resumption, Resumptions
from ptyinr_stream.sources.files import FileSource
from ptyinr_stream.sources.zeromq import Receiver

RESUMED_WITHIN_S = 86400.0
"""Since a scan was cut off: a daemon that is restarted later leaves it to `reconstruct`."""


@dataclass(frozen=True)
class ReceptionStatus:
    """How everything stands that receives, records and joins."""

    streams: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Messages that were passed over or joined, by kind."""
    intake: dict[str, Any] = field(default_factory=dict)
    """Open scans, what the inbox holds, and the latency of pairs: see `Intake.status`."""
    recorder: RecorderStatus = field(default_factory=lambda: RecorderStatus("off"))


class Reception:
    """Receives, records and joins, from its construction until `stop`.

    Args:
        config: the whole configuration.
        attributes: of what is recorded.
        begun: uids of scans that an earlier life has not finished, even where their recording is over.
        deliver: is called in the intake's thread, in order; it must return at once.
        resumed: is told, before its first frame, of each scan that goes on.
        memory: of decoded frames.
        given_up: is asked while another process still records.

    Raises:
        ConfigError: a wire or a key is wrong, or a mask cannot be read.
        EndpointError: an address is in use, or another daemon records into the same folder.
        HandoverError: a process of an earlier life does not let go of it.
    """

    def __init__(
        self,
        config: Config,
        attributes: Mapping[str, str],
        begun: Collection[str],
        deliver: Callable[[Output], None],
        resumed: Callable[[Resumption], None],
        memory: Memory = own_memory,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._inbox = inbox = Inbox(int(1e6 * config.assembly.inbox_mb))
        self._receivers: dict[str, Receiver] = {}
        self._ownership: Ownership | None = None
        self._recorder: Recorder | None = None
        self._resumptions = Resumptions()
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_receivers)
            stack.callback(inbox.close)
            folder = config.recordings
            self._ownership = None if folder is None else Ownership(folder, given_up)
            # Before the process that still records lets go, so that nothing is lost between the two; to an address
            # that is bound only one can listen.
            self._receive(lambda stream: not stream.bind)
            if folder is not None and self._ownership is not None:
                stack.callback(self._ownership.release)
                self._ownership.take_over()
                self._recorder = Recorder(folder, config.recording, config.assembly, attributes)
                stack.callback(self._recorder.close)
                self._resumptions = Resumptions(unfinished(folder, RESUMED_WITHIN_S, begun), resumed)
            self._files = FileSource(config, inbox) if config.reads_files else None
            self._intake = Intake(
                config,
                inbox,
                deliver,
                files=None if self._files is None else self._files.take,
                recorder=self._recorder,
                resumed=self._resumptions,
                memory=memory,
            )
            stack.callback(self._intake.stop)
            if self._files is not None:
                stack.callback(self._files.stop)
            stack.callback(self._stop_receivers)  # before the inbox is closed
            self._receive(lambda stream: True)
            self._cleanup = stack.pop_all()

    @property
    def endpoints(self) -> dict[str, str]:
        """The real address of each road: port 0 in the configuration is replaced by the port it became."""
        return {road: self._receivers[road].endpoint for road in ROADS if road in self._receivers}

    @property
    def status(self) -> ReceptionStatus:
        """A copy of everything that is counted."""
        files = dict(self._files.counts) if self._files else {}
        return ReceptionStatus(
            streams=[self._receivers[road].status() for road in self.endpoints],
            counts={
                **self._intake.counts,
                **{f"files.{kind}": number for kind, number in files.items()},
                "scans.left_alone": self._resumptions.left_alone,
            },
            intake=self._intake.status(),
            recorder=self._recorder.status if self._recorder else RecorderStatus("off"),
        )

    @property
    def late_s(self) -> NDArray[np.float64]:
        """(1,) How long the message that is being read had waited, in seconds."""
        return self._intake.late_s

    @property
    def records(self) -> bool:
        """Whether it holds the folder of the recordings, so that another process can go on from there."""
        return self._ownership is not None and self._ownership.held

    @property
    def wanted(self) -> bool:
        """Whether another process waits to go on with what is recorded."""
        return self._ownership is not None and self._ownership.wanted

    @property
    def silent_s(self) -> float:
        """Since it last said how it stands: it is asked each time."""
        return 0.0

    def check(self) -> None:
        """Raise what ended one of the threads, if anything did."""
        for part in (*self._receivers.values(), self._files, self._intake):
            if part is not None:
                part.check()

    def stop(self) -> None:
        """Stop receiving, join and record what has been received, and deliver it."""
        self._cleanup.close()

    leave = stop

    def outlive(self) -> None:
        """The daemon is gone: another one may want what is recorded."""
        if self._ownership is not None:
            self._ownership.outlive()

    def _receive(self, which: Callable[[StreamConfig], bool]) -> None:
        for road in ROADS:
            stream = getattr(self._config.streams, road)
            if stream is not None and road not in self._receivers and which(stream):
                self._receivers[road] = Receiver(road, stream, self._inbox)

    def _stop_receivers(self) -> None:
        for receiver in self._receivers.values():
            receiver.stop()
