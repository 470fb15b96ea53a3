import queue
import threading

import numpy as np
import pytest

from ptyinr.types import Snapshot
from ptyinr_stream.errors import PublishError
from ptyinr_stream.publishers.base import KEPT_SCANS, PublisherThread, ScanRecord

WAIT_S = 10


def scan(uid="a"):
    return ScanRecord(uid, 1, 0.0)


def snapshot(step, uid="a", final=False):
    field = np.ones((8, 8), np.complex64)
    return Snapshot(
        uid, step, 1, field, field[None], np.ones((8, 8), np.float32), np.arange(1), np.zeros((1, 2)), (1e-8, 1e-8),
        final=final,
    )  # fmt: skip


class Scripted:
    """A publisher that waits for permission for each call and fails when told to."""

    def __init__(self):
        self.calls = queue.Queue()
        self.verdicts = queue.Queue()

    def open(self, scan):
        self._call("open", scan.uid)

    def publish(self, snapshot):
        self._call("final" if snapshot.final else "live", snapshot.step)

    def close(self, uid, report):
        self._call("close", uid)

    def _call(self, *call):
        self.calls.put(call)
        error = self.verdicts.get(timeout=WAIT_S)
        if error is not None:
            raise error

    def expect(self, *call, error=None):
        """Take the next call, which must be this one, and let it end."""
        assert self.calls.get(timeout=WAIT_S) == call
        self.verdicts.put(error)


class Obedient(Scripted):
    """Accepts everything."""

    def _call(self, *call):
        self.calls.put(call)


@pytest.fixture
def scripted():
    publisher = Scripted()
    thread = PublisherThread(publisher, "test", pause_s=(0.001, 0.002)).start()
    yield publisher, thread
    for _ in range(100):
        publisher.verdicts.put(None)
    thread.stop(WAIT_S)


def test_the_newest_snapshot_replaces_those_that_wait(scripted):
    publisher, thread = scripted
    thread.open(scan())
    thread.publish(snapshot(1))
    publisher.expect("open", "a")
    assert publisher.calls.get(timeout=WAIT_S) == ("live", 1)
    for step in (2, 3, 4):
        thread.publish(snapshot(step))
    publisher.verdicts.put(None)
    publisher.expect("live", 4)


def test_a_final_snapshot_is_kept_and_everything_leaves_in_order(scripted):
    publisher, thread = scripted
    thread.open(scan("a"))
    assert publisher.calls.get(timeout=WAIT_S) == ("open", "a")
    thread.publish(snapshot(1, "a"))
    thread.publish(snapshot(2, "a", final=True))
    thread.publish(snapshot(3, "a"))
    thread.publish(snapshot(4, "a", final=True))
    thread.close("a", {})
    thread.open(scan("b"))
    publisher.verdicts.put(None)
    publisher.expect("final", 2)
    publisher.expect("final", 4)
    publisher.expect("close", "a")
    publisher.expect("open", "b")


def test_a_failure_is_tried_again_with_the_newest_snapshot_and_counted(scripted):
    publisher, thread = scripted
    thread.open(scan())
    publisher.expect("open", "a")
    thread.publish(snapshot(1))
    assert publisher.calls.get(timeout=WAIT_S) == ("live", 1)
    thread.publish(snapshot(2))
    publisher.verdicts.put(PublishError("server away"))
    assert publisher.calls.get(timeout=WAIT_S) == ("live", 2)
    assert (thread.status.failed, thread.status.published, thread.status.last_error) == (1, 0, "server away")
    publisher.verdicts.put(None)
    assert thread.stop(WAIT_S)
    status = thread.status
    assert (status.failed, status.published, status.last_error, status.lost, status.waiting) == (1, 1, None, 0, 0)
    assert status.last_published is not None


def test_a_scan_that_cannot_be_delivered_does_not_hold_up_the_next(scripted):
    publisher, thread = scripted
    thread.open(scan("bad"))
    publisher.expect("open", "bad", error=PublishError("no"))
    thread.open(scan("good"))
    for _ in range(100):
        call = publisher.calls.get(timeout=WAIT_S)
        if call == ("open", "good"):
            break
        publisher.verdicts.put(PublishError("no"))
    assert call == ("open", "good")


def test_the_same_error_is_logged_once_until_something_is_delivered(scripted, caplog):
    publisher, thread = scripted
    caplog.set_level("INFO")
    thread.open(scan())
    for error in ("away", "away", "other", "away"):
        publisher.expect("open", "a", error=PublishError(error))
    publisher.expect("open", "a")
    thread.publish(snapshot(1))
    publisher.expect("live", 1, error=PublishError("away"))
    publisher.expect("live", 1)
    assert thread.stop(WAIT_S)
    said = [record.message for record in caplog.records if record.message.startswith("test: ")]
    assert [message.removeprefix("test: ").split(";")[0] for message in said] == [
        "away", "other", "publishing again", "away", "publishing again",
    ]  # fmt: skip


def test_stopping_delivers_what_is_owed():
    publisher = Obedient()
    thread = PublisherThread(publisher, "test")
    thread.open(scan())
    thread.publish(snapshot(7, final=True))
    thread.close("a", {})
    thread.start()
    assert thread.stop(WAIT_S)
    assert [publisher.calls.get_nowait() for _ in range(3)] == [("open", "a"), ("final", 7), ("close", "a")]
    assert thread.status.lost == 0


def test_stopping_takes_no_longer_than_allowed_and_counts_what_is_lost(caplog):
    publisher = Scripted()
    thread = PublisherThread(publisher, "test").start()
    thread.open(scan())
    assert publisher.calls.get(timeout=WAIT_S) == ("open", "a")  # and it stays in there
    thread.publish(snapshot(1, final=True))
    assert not thread.stop(0.05)
    assert thread.status.lost == 2
    assert "gave up the results of a" in caplog.text
    publisher.verdicts.put(None)


def test_a_destination_that_stays_away_holds_a_bounded_number_of_scans():
    thread = PublisherThread(Obedient(), "test")  # never started
    for n in range(KEPT_SCANS + 3):
        thread.open(scan(f"scan-{n}"))
        thread.publish(snapshot(1, f"scan-{n}", final=True))
    assert thread.status.waiting == KEPT_SCANS
    assert thread.status.lost == 2 * 3


def test_a_scan_that_was_given_up_before_it_was_opened_is_not_heard_of_again():
    publisher = Obedient()
    thread = PublisherThread(publisher, "test")
    for n in range(KEPT_SCANS + 1):
        thread.open(scan(str(n)))
    thread.publish(snapshot(1, "0", final=True))
    thread.close("0", {})
    thread.start()
    assert thread.stop(WAIT_S)
    assert list(publisher.calls.queue) == [("open", str(n)) for n in range(1, KEPT_SCANS + 1)]


def test_a_defect_ends_the_thread_and_is_raised_by_check():
    publisher = Scripted()
    thread = PublisherThread(publisher, "test").start()
    thread.open(scan())
    publisher.expect("open", "a", error=ZeroDivisionError("oops"))
    thread.stop(WAIT_S)
    with pytest.raises(ZeroDivisionError):
        thread.check()
    thread.publish(snapshot(1))
    assert thread.status.waiting == 0


@pytest.mark.parametrize("value", [None, {"a": 1}, np.float64(1), float("nan"), [1, None], (1, 2)])
def test_metadata_that_a_destination_cannot_store_is_refused_at_once(value):
    with pytest.raises(ValueError, match="'depth'"):
        ScanRecord("a", 1, 0.0, {"depth": value})
    with pytest.raises(ValueError, match="'depth'"):
        PublisherThread(Obedient(), "test").close("a", {"depth": value})


def test_snapshots_from_many_threads_lose_no_final():
    publisher = Obedient()
    thread = PublisherThread(publisher, "test").start()

    def scan_it(uid):
        thread.open(scan(uid))
        for step in range(50):
            thread.publish(snapshot(step, uid))
        thread.publish(snapshot(1000, uid, final=True))
        thread.close(uid, {})

    workers = [threading.Thread(target=scan_it, args=(str(n),)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_S)
    assert thread.stop(WAIT_S)
    calls = list(publisher.calls.queue)
    assert calls.count(("final", 1000)) == 4
    for n in map(str, range(4)):
        assert calls.index(("open", n)) < calls.index(("close", n))
