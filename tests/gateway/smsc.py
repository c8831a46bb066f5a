"""A carrier for tests: an SMSC that speaks SMPP 3.4 on loopback with one gateway bound as transceiver.

It keeps every submit_sm as a Part, refuses what it is told to, and sends delivery receipts late and out of order.
"""

import contextlib
import heapq
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .parts import Part

BIND_TRANSCEIVER, SUBMIT_SM, DELIVER_SM, UNBIND, ENQUIRE_LINK = 0x09, 0x04, 0x05, 0x06, 0x15
GENERIC_NACK, RESPONSE = 0x80000000, 0x80000000
OK, INVALID_COMMAND, INVALID_DESTINATION, QUEUE_FULL, THROTTLED = 0x00, 0x03, 0x0B, 0x14, 0x58  # SMPP 3.4, 5.1.3
UDH_INDICATOR, RECEIPT, RECEIPT_WANTED = 0x40, 0x04, 0x03  # esm_class, esm_class, mask of registered_delivery
MESSAGE_PAYLOAD = 0x0424
ENCODINGS = {0x00: "GSM-7", 0x08: "UCS-2"}  # data_coding


@dataclass(frozen=True)
class Submission:
    """A submit_sm that was answered with OK."""

    message_id: str
    part: Part
    receipt_wanted: bool


def accept_all(part: Part) -> int:
    return OK


def delivered(part: Part) -> Sequence[str]:
    return ["DELIVRD"]


class Smsc:
    """`with Smsc(port) as smsc:` lets the gateway bind until the end of the block.

    Replace `answer` (part -> command_status of submit_sm_resp: OK, THROTTLED...) and `receipts` (part -> states to
    report: DELIVRD, UNDELIV, ENROUTE...; SMPP 3.4, appendix B) at any time. Each receipt waits a random while of up to
    `receipt_delay_s`, so they come in no order, neither among messages nor among the states of one; 0 keeps the order.
    """

    def __init__(self, port: int, *, seed: int = 1, receipt_delay_s: float = 0.5) -> None:
        self.port = port
        self.receipt_delay_s = receipt_delay_s
        self.answer: Callable[[Part], int] = accept_all
        self.receipts: Callable[[Part], Sequence[str]] = delivered
        self.submissions: list[Submission] = []
        self.refusals: list[tuple[Part, int]] = []
        self.errors: list[str] = []
        self._random = random.Random(seed)
        self._due: list[tuple[float, int, bytes]] = []
        self._unanswered: dict[int, bytes] = {}
        self._changed = threading.Condition()
        self._sequence = 0
        self._stopping = False
        self._listener = socket.create_server(("127.0.0.1", port))
        self._peer: socket.socket | None = None
        self._bound = False
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._send_receipts)]

    def __enter__(self) -> "Smsc":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for sock in (self._listener, self._peer):
            if sock is not None:
                hang_up(sock)
        for thread in self._threads:
            thread.join(5)

    @property
    def parts(self) -> list[Part]:
        return [submission.part for submission in list(self.submissions)]

    def drop_connection(self) -> None:
        """Cut the line to the gateway, as a carrier's restart does; it may bind again."""
        if self._peer is not None:
            hang_up(self._peer)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._peer = peer
            try:
                self._talk(peer)
            except (OSError, EOFError):
                pass  # the gateway left
            except Exception as error:
                self.errors.append(repr(error))
                raise
            finally:
                self._bound, self._peer = False, None
                peer.close()

    def _talk(self, peer: socket.socket) -> None:
        with peer.makefile("rb") as stream:
            while True:
                command, sequence, body = read_pdu(stream.read)
                if command == BIND_TRANSCEIVER:
                    self._write(peer, pdu(command | RESPONSE, OK, sequence, b"test-smsc\0"))
                    self._bind()
                elif command == SUBMIT_SM:
                    self._submit(peer, sequence, body)
                elif command in (ENQUIRE_LINK, UNBIND):
                    self._write(peer, pdu(command | RESPONSE, OK, sequence))
                elif command == DELIVER_SM | RESPONSE:
                    self._unanswered.pop(sequence, None)
                elif not command & RESPONSE:
                    self._write(peer, pdu(GENERIC_NACK, INVALID_COMMAND, sequence))

    def _submit(self, peer: socket.socket, sequence: int, body: bytes) -> None:
        part, receipt_wanted = parse_submit_sm(body)
        status = self.answer(part)
        if status != OK:
            self.refusals.append((part, status))
            self._write(peer, pdu(SUBMIT_SM | RESPONSE, status, sequence))
            return
        submission = Submission(f"smsc-{len(self.submissions) + 1:06}", part, receipt_wanted)
        self.submissions.append(submission)
        self._write(peer, pdu(SUBMIT_SM | RESPONSE, OK, sequence, submission.message_id.encode() + b"\0"))
        if receipt_wanted:
            for state in self.receipts(part):
                self._plan(deliver_sm(submission, state))

    def _bind(self) -> None:
        """Open the way for receipts; those the gateway had not answered before it went are sent again."""
        with self._changed:
            self._bound = True
            lost, self._unanswered = list(self._unanswered.values()), {}
        for body in lost:
            self._plan(body)

    def _plan(self, body: bytes) -> None:
        with self._changed:
            self._sequence += 1
            at = time.monotonic() + 0.05 + self._random.uniform(0, self.receipt_delay_s)  # after submit_sm_resp
            heapq.heappush(self._due, (at, self._sequence, body))
            self._changed.notify_all()

    def _send_receipts(self) -> None:
        while not self._stopping:
            with self._changed:
                wait = self._due[0][0] - time.monotonic() if self._due else 1.0
                peer = self._peer
                if wait > 0 or peer is None or not self._bound:
                    self._changed.wait(max(wait, 0.05))
                    continue
                _, sequence, body = heapq.heappop(self._due)
                self._unanswered[sequence] = body
            self._write(peer, pdu(DELIVER_SM, OK, sequence, body))

    def _write(self, peer: socket.socket, data: bytes) -> None:
        with self._changed:  # one writer at a time: receipts come from a thread of their own
            try:
                peer.sendall(data)
            except OSError as error:
                if not self._stopping:
                    self.errors.append(f"write failed: {error}")


def hang_up(sock: socket.socket) -> None:
    """Close so that a thread blocked in accept() or recv() wakes up."""
    with contextlib.suppress(OSError):  # not connected
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def pdu(command: int, status: int, sequence: int, body: bytes = b"") -> bytes:
    return struct.pack(">IIII", 16 + len(body), command, status, sequence) + body


def read_pdu(read: Callable[[int], bytes]) -> tuple[int, int, bytes]:
    """(command, sequence, body) of the next PDU. Raises EOFError at the end of the stream."""
    header = read(16)
    if len(header) < 16:
        raise EOFError
    length, command, _status, sequence = struct.unpack(">IIII", header)
    body = read(length - 16)
    if len(body) < length - 16:
        raise EOFError
    return command, sequence, body


def c_string(body: bytes, at: int) -> tuple[str, int]:
    end = body.index(b"\0", at)
    return body[at:end].decode("latin-1"), end + 1


def parse_submit_sm(body: bytes) -> tuple[Part, bool]:
    """The part and whether a receipt is wanted (SMPP 3.4, section 4.4.1)."""
    _service_type, at = c_string(body, 0)
    sender, at = c_string(body, at + 2)  # after type of number and numbering plan
    recipient, at = c_string(body, at + 2)
    esm_class = body[at]
    _schedule, at = c_string(body, at + 3)
    _validity, at = c_string(body, at)
    registered_delivery, _replace, data_coding, _default_id, length = body[at : at + 5]
    payload, at = body[at + 5 : at + 5 + length], at + 5 + length
    while at < len(body):
        tag, size = struct.unpack_from(">HH", body, at)
        if tag == MESSAGE_PAYLOAD:
            payload = body[at + 4 : at + 4 + size]
        at += 4 + size
    header_length = payload[0] + 1 if esm_class & UDH_INDICATOR else 0
    encoding = ENCODINGS.get(data_coding, f"data_coding {data_coding}")
    part = Part(sender, recipient, encoding, payload[:header_length], payload[header_length:])
    return part, bool(registered_delivery & RECEIPT_WANTED)


def deliver_sm(submission: Submission, state: str) -> bytes:
    """A delivery receipt's body, in the text form of SMPP 3.4, appendix B."""
    part = submission.part
    moment = time.strftime("%y%m%d%H%M", time.gmtime())
    arrived = int(state == "DELIVRD")
    text = (
        f"id:{submission.message_id} sub:001 dlvrd:{arrived:03} submit date:{moment} done date:{moment} "
        f"stat:{state} err:{0 if arrived else 1:03} text:"
    ).encode()
    return b"".join(
        [
            b"\0\x01\x01" + part.recipient.encode() + b"\0",
            b"\x05\0" + part.sender.encode("latin-1") + b"\0",
            bytes([RECEIPT, 0, 0]) + b"\0\0" + bytes([0, 0, 0, 0, len(text)]) + text,
        ]
    )
