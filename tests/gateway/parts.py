"""What a handset sees: parts as a carrier got them, joined by their user data headers (3GPP TS 23.040, 9.2.3.24)."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# GSM 03.38: the basic alphabet by septet value; 0x1B (ESC) opens the extension table.
BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = dict(zip(b"\x0a\x14\x28\x29\x2f\x3c\x3d\x3e\x40\x65", "\f^{}\\[~]|€", strict=True))
ESC = 0x1B


class Incomplete(Exception):
    """Parts are missing, double or contradict each other."""


@dataclass(frozen=True)
class Part:
    """One short message as the carrier got it."""

    sender: str
    recipient: str  # an MSISDN, without `+`
    encoding: str  # "GSM-7", "UCS-2"; "" where the carrier cannot tell (the fake SMSC)
    header: bytes  # user data header with its length octet; b"" without one
    data: bytes  # septets, one an octet; UTF-16BE; from the fake SMSC UTF-8 in the place of septets

    def place(self) -> tuple[int, int, int]:
        """(reference, total, number) of a concatenated part, (-1, 1, 1) of one that stands alone."""
        at = 1
        while at < len(self.header):
            element, length = self.header[at], self.header[at + 1]
            value = self.header[at + 2 : at + 2 + length]
            if element == 0x00:
                return value[0], value[1], value[2]
            if element == 0x08:
                return int.from_bytes(value[:2], "big"), value[2], value[3]
            at += 2 + length
        return -1, 1, 1

    def cuts_a_character(self) -> bool:
        """Whether it begins or ends inside a surrogate or an escape pair, so that a handset may show rubbish."""
        try:
            decode(self.encoding, self.data)
        except ValueError:
            return True
        return False


@dataclass(frozen=True)
class Received:
    """A whole message: all its parts, in their order."""

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return decode(self.parts[0].encoding, self.data)

    @property
    def data(self) -> bytes:
        return b"".join(part.data for part in self.parts)


def join(parts: Iterable[Part]) -> dict[str, list[Received]]:
    """Whole messages by recipient, in the order they became whole. Raises Incomplete."""
    messages: dict[str, list[Received]] = defaultdict(list)
    begun: dict[tuple[str, int, int], dict[int, Part]] = defaultdict(dict)
    for part in parts:
        reference, total, number = part.place()
        found = begun[part.recipient, reference, total]
        if number in found or not 1 <= number <= total:
            raise Incomplete(
                f"part {number} of {total}, reference {reference}, to {part.recipient}: double or impossible"
            )
        found[number] = part
        if len(found) == total:
            del begun[part.recipient, reference, total]
            messages[part.recipient].append(Received(tuple(found[index] for index in range(1, total + 1))))
    if begun:
        raise Incomplete("; ".join(f"{to}: only parts {sorted(found)} of {of}" for (to, _, of), found in begun.items()))
    return dict(messages)


def decode(encoding: str, data: bytes) -> str:
    """Text of a part's data. Raises ValueError on a cut or unknown character."""
    match encoding:
        case "GSM-7":
            return decode_gsm7(data)
        case "UCS-2":
            return data.decode("utf-16-be")
        case _:
            raise ValueError(f"no text in encoding {encoding!r}")


def decode_gsm7(septets: bytes) -> str:
    text = []
    values = iter(septets)
    for value in values:
        if value == ESC:
            escaped = next(values, -1)
            if escaped not in EXTENSION:
                raise ValueError(f"ESC followed by {escaped}")
            text.append(EXTENSION[escaped])
        elif value < len(BASIC):
            text.append(BASIC[value])
        else:
            raise ValueError(f"{value:#x} is not a septet")
    return "".join(text)
