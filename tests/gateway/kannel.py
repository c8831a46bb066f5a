"""The real Kannel gateway for tests: bearerbox, smsbox and two carriers, all on loopback, gone at the end.

with Kannel(tmp_path) as kannel:
    ...  # send with kannel.options("smpp")
    messages = join(kannel.smsc.parts)

Carrier "fake" is Kannel's own fakesmsc, carrier "smpp" our Smsc, which keeps encoding, header and octets as sent and
says what a receipt is to report. Needs Debian's packages kannel and kannel-extras, not their init service.
"""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes

from .parts import Part
from .smsc import Smsc

PASSWORD = "loopback"  # SMPP allows 8 characters
FAKESMSC_PLACES = ("/usr/lib/kannel/test/fakesmsc", "/usr/lib/kannel/fakesmsc")
CARRIERS = ("fake", "smpp")

# What fakesmsc prints (Kannel 1.4.5): the text raw, everything else URL-encoded.
GOT = re.compile(rb"DEBUG: Got message \d+: <(.*?)>\r?\n(?=\d{4}-|\Z)", re.DOTALL)
LINE = re.compile(
    rb"(\S*) \+?(\d+) (?:text (?P<text>.*)|ucs-2 (?P<ucs2>\S*)|udh (?P<udh>\S*) data (?P<data>\S*))", re.DOTALL
)

CONFIGURATION = """\
group = core
admin-port = {admin}
admin-interface = 127.0.0.1
admin-password = {password}
smsbox-port = {boxes}
smsbox-interface = 127.0.0.1
box-deny-ip = "*.*.*.*"
box-allow-ip = "127.0.0.1"
dlr-storage = internal
sms-resend-freq = 1
sms-resend-retry = 3
log-file = "{directory}/bearerbox.log"
log-level = 1

group = smsc
smsc = fake
smsc-id = fake
allowed-smsc-id = fake
our-host = 127.0.0.1
port = {fake}
connect-allow-ip = 127.0.0.1

group = smsc
smsc = smpp
smsc-id = smpp
allowed-smsc-id = smpp
host = 127.0.0.1
port = {smpp}
transceiver-mode = true
smsc-username = kannel
smsc-password = {password}
system-type = ""
source-addr-autodetect = yes
dest-addr-ton = 1
dest-addr-npi = 1
reconnect-delay = 1
enquire-link-interval = 5
max-pending-submits = 20

group = smsbox
smsbox-id = smsbox
bearerbox-host = 127.0.0.1
bearerbox-port = {boxes}
sendsms-port = {sendsms}
sendsms-interface = 127.0.0.1
sendsms-chars = "0123456789+"
http-request-retry = 10
http-queue-delay = 1
log-file = "{directory}/smsbox.log"
log-level = 1
"""

SENDSMS_USER = """
group = sendsms-user
username = {carrier}
password = {password}
forced-smsc = {carrier}
concatenation = true
max-messages = {max_parts}
user-deny-ip = "*.*.*.*"
user-allow-ip = "127.0.0.1"
"""


class NotReady(Exception):
    """Kannel is not installed, did not come up, or went away."""


class Kannel:
    """A running gateway. max_parts: what needs more parts is accepted and cut off without a word."""

    def __init__(self, directory: Path, *, max_parts: int = 10) -> None:
        self.directory = directory
        self.max_parts = max_parts
        names = ("admin", "boxes", "sendsms", "fake", "smpp")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.smsc = Smsc(self.ports["smpp"])
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cleanup = contextlib.ExitStack()

    @property
    def sendsms_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['sendsms']}/cgi-bin/sendsms"

    def options(self, carrier: str) -> dict[str, Any]:
        """OPTIONS of our generic HTTP provider for one carrier; `carrier` is the sendsms user."""
        return {
            "url": self.sendsms_url,
            "method": "GET",
            "query": {
                "username": carrier,
                "password": PASSWORD,
                "to": "{recipient}",
                "from": "{sender_id}",
                "text": "{text}",
                "charset": "UTF-8",
                "coding": "{encoding}",
                "dlr-mask": "31",
                "dlr-url": "{receipt_url}&status=%d&id=%F",
            },
            "encoding": {"GSM-7": "0", "UCS-2": "2"},
            "accepted": {"status": [202], "matches": "^(0: Accepted|3: Queued)"},
            "rejected": {"status": [400, 403], "matches": "rejected|denied by|^Not routable"},
            "receipt_token": "a-secret-path-segment",
            "receipt": {
                "reference": "reference",
                "id": "id",
                "status": "status",
                "delivered": ["1"],
                "undelivered": ["2", "16"],
                "in_transit": ["4", "8"],
            },
        }

    def __enter__(self) -> "Kannel":
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            error.add_note(self.logs())

    def _start(self) -> None:
        self._cleanup.enter_context(self.smsc)
        bearerbox, smsbox, fakesmsc = programs()
        values = {**self.ports, "password": PASSWORD, "directory": self.directory, "max_parts": self.max_parts}
        users = "".join(SENDSMS_USER.format(carrier=carrier, **values) for carrier in CARRIERS)
        (self.directory / "kannel.conf").write_text(CONFIGURATION.format(**values) + users)
        self._spawn("bearerbox", [bearerbox, "-v", "4", "kannel.conf"])
        self.wait_for(lambda: listening(self.ports["admin"]), "bearerbox listens")
        self._spawn("smsbox", [smsbox, "-v", "4", "kannel.conf"])
        self.connect_fakesmsc(fakesmsc)
        self.wait_for(self._ready, "both carriers online, smsbox connected")

    def connect_fakesmsc(self, program: str | None = None) -> None:
        """Connect Kannel's fake SMSC, which only listens: `-m 0` sends no message of its own."""
        where = ["-H", "127.0.0.1", "-r", str(self.ports["fake"])]
        self._spawn("fakesmsc", [program or programs()[2], "-v", "0", *where, "-m", "0", "0 0 text unused"])

    def stop_child(self, name: str) -> None:
        """End one of bearerbox, smsbox, fakesmsc, as a crash or a restart would."""
        child = self._children.pop(name)
        child.send_signal(signal.SIGINT if name == "fakesmsc" else signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def stop(self) -> None:
        for name in ("fakesmsc", "smsbox", "bearerbox"):
            if name in self._children:
                self.stop_child(name)
        self._cleanup.close()

    def status(self) -> str:
        """Kannel's own status page, as text."""
        return http_get(self.ports["admin"], f"/status.txt?password={PASSWORD}")

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
        """Poll until true. Raises NotReady when it is not in time, or when a child has ended."""
        end = time.monotonic() + timeout_s
        while not condition():
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise NotReady(f"{name} ended with {child.returncode}")
            if time.monotonic() > end:
                raise NotReady(f"Not within {timeout_s:g} s: {what}")
            time.sleep(0.05)

    @property
    def fake_parts(self) -> list[Part]:
        """What fakesmsc printed; see LINE for what its lines lose."""
        return read_fakesmsc((self.directory / "fakesmsc.out").read_bytes())

    def logs(self, lines: int = 40) -> str:
        found = [path for path in sorted(self.directory.iterdir()) if path.suffix in (".log", ".out")]
        return "\n".join(f"== {path.name}\n{tail(path, lines)}" for path in found)

    def _ready(self) -> bool:
        status = self.status()
        online = len(re.findall(r"^\s+(?:fake|smpp)\b.*\(online", status, re.MULTILINE))
        return online == 2 and "smsbox:smsbox" in status.replace(" ", "") and listening(self.ports["sendsms"])

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.out").open("ab") as out:
            self._children[name] = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )


def programs() -> tuple[str, str, str]:
    """Paths of bearerbox, smsbox and fakesmsc. Fails in one sentence when they are not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    boxes = [shutil.which(name, path=path) for name in ("bearerbox", "smsbox")]
    fakesmsc = next((place for place in FAKESMSC_PLACES if os.access(place, os.X_OK)), None)
    if boxes[0] is None or boxes[1] is None or fakesmsc is None:
        raise NotReady("Kannel is not installed: apt-get install kannel kannel-extras")
    return boxes[0], boxes[1], fakesmsc


def read_fakesmsc(log: bytes) -> list[Part]:
    """Parts out of fakesmsc's debug log, in the order they came.

    A text without header is printed raw, so a line feed in it starts a new line, put together again here; a carriage
    return before it is lost. A part with header does not say its encoding: UTF-8 when it was GSM-7, else UTF-16BE.
    """
    lines: list[bytes] = []
    for line in GOT.findall(log):
        if LINE.fullmatch(line) or not lines:
            lines.append(line)
        else:
            lines[-1] += b"\n" + line
    return [fakesmsc_part(line) for line in lines]


def fakesmsc_part(line: bytes) -> Part:
    match = LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"fakesmsc printed {line!r}")
    sender, recipient = match[1].decode(), match[2].decode()
    if (text := match["text"]) is not None:
        return Part(sender, recipient, "", b"", text)
    if (ucs2 := match["ucs2"]) is not None:
        return Part(sender, recipient, "UCS-2", b"", unquote(ucs2))
    return Part(sender, recipient, "", unquote(match["udh"]), unquote(match["data"]))


def unquote(value: bytes) -> bytes:
    return unquote_to_bytes(value.replace(b"+", b" "))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def listening(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def http_get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode("utf-8", "replace")
    finally:
        connection.close()


def tail(path: Path, lines: int) -> str:
    return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:])
