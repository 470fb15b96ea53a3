"""Who is at the other end of a socket, as the events of libzmq's socket monitor tell.

A wrong CURVE key looks like silence, and so does a detector that waits. These events were observed with libzmq 4.3.5:

| what is wrong | events |
|---|---|
| nobody listens | CONNECT_DELAYED, CLOSED, CONNECT_RETRIED, again and again |
| a wrong server key | CONNECTED, HANDSHAKE_FAILED_NO_DETAIL, DISCONNECTED, CONNECT_RETRIED, again and again |
| a client key that is not on the server's list | CONNECTED, HANDSHAKE_FAILED_AUTH, DISCONNECTED, and never again |
| encryption on one side only | CONNECTED, HANDSHAKE_FAILED_PROTOCOL (or NO_DETAIL, or none), DISCONNECTED, the end |
| a socket type that does not go with ours | CONNECTED, DISCONNECTED, and never again |
| the same, encrypted | as a wrong server key |
"""

from __future__ import annotations

from typing import Any

import zmq

from ptyinr_stream.config import StreamConfig

HANDSHAKE_FAILED = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_AUTH,
)


def refusal(event: int, stream: StreamConfig, public: bytes | None) -> str:
    """What a failed handshake means to the one who configured the stream; `public` is our own key."""
    listed = f"this client's public key on it is {(public or b'').decode()}"
    own = stream.secret_key_env or stream.secret_key_file
    if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
        key = stream.server_key_env
        return "it is not encrypted: leave out server_key_env" if key else "it is encrypted: give server_key_env"
    if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
        how = listed if own else "give secret_key_env, and have its public key put on it"
        return f"it admits only the clients on its list: {how}"
    if event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL and stream.server_key_env:
        why = f"it does not accept the key in {stream.server_key_env}, or is not encrypted"
        return f"{why}; if it keeps a list of clients, {listed}" if own else why
    # It may find out first, and leave without a word.
    return f"it hangs up: encrypted on one side only, or no socket for a {stream.socket} reader"


class Peers:
    """A running account of the other end.

    Args:
        stream: for what `why` says.
        public: our own public key, where the stream is encrypted.
    """

    def __init__(self, stream: StreamConfig, public: bytes | None) -> None:
        self.ready = 0
        """Peers after a handshake."""
        self.since = 0.0
        """When the last handshake succeeded."""
        self.failed = False
        """Whether the last attempt reached somebody and came to nothing."""
        self.given_up = False
        """Whether libzmq makes no further attempt."""
        self.why = "nobody has connected" if stream.bind else "no answer"
        """What stands in the way while nobody is ready."""
        self._stream = stream
        self._public = public
        self._refused = 0  # peers whose handshake failed and who have not left yet

    def note(self, message: Any, now: float) -> None:
        """Take an event of the monitor, and the time."""
        event = message["event"]
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.ready, self.failed, self.since = self.ready + 1, False, now
        elif event in HANDSHAKE_FAILED:
            self.failed = True
            self.why = refusal(event, self._stream, self._public)
            self._refused += 1
        elif event == zmq.Event.DISCONNECTED:
            self.given_up = True
            if self._refused:
                self._refused -= 1
            elif self.ready:
                self.ready -= 1
                self.why = "the sender has left"
            else:
                self.failed = True
                self.why = refusal(event, self._stream, self._public)
        elif event in (zmq.Event.CONNECT_RETRIED, zmq.Event.CONNECTED, zmq.Event.CONNECT_DELAYED):
            self.given_up = False
        elif event == zmq.Event.CLOSED:
            self.failed = False
            self.why = "nobody listens there, or a firewall is in between"
