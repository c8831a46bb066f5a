"""The checker itself must notice what it is there to notice."""

import pytest

from .kannel import read_fakesmsc
from .parts import Incomplete, Part, decode_gsm7, join
from .texts import ALPHABET


def part(number: int, total: int, data: bytes, reference: int = 7, encoding: str = "GSM-7") -> Part:
    return Part("BRAND", "254711000001", encoding, bytes([5, 0, 3, reference, total, number]), data)


def test_parts_join_in_their_order_whatever_order_they_came_in() -> None:
    [message] = join([part(2, 2, b"cd"), part(1, 2, b"ab")])["254711000001"]

    assert message.text == "abcd"


@pytest.mark.parametrize(
    "parts",
    [
        [part(1, 2, b"ab")],
        [part(1, 2, b"ab"), part(1, 2, b"ab")],
        [part(1, 2, b"ab"), part(2, 2, b"cd"), part(2, 2, b"cd")],
        [part(3, 2, b"ab")],
    ],
)
def test_missing_double_and_impossible_parts_are_refused(parts: list[Part]) -> None:
    with pytest.raises(Incomplete):
        join(parts)


def test_a_message_that_came_twice_is_there_twice() -> None:
    assert len(join([part(1, 1, b"ab"), part(1, 1, b"ab")])["254711000001"]) == 2


def test_a_cut_surrogate_or_escape_pair_is_noticed() -> None:
    emoji = "😀".encode("utf-16-be")

    assert part(1, 2, emoji[:2], encoding="UCS-2").cuts_a_character()
    assert part(1, 2, b"a\x1b").cuts_a_character()
    assert not part(1, 2, emoji, encoding="UCS-2").cuts_a_character()


def test_the_whole_alphabet_decodes() -> None:
    septets = bytes(value for value in range(128) if value != 0x1B)
    pairs = b"".join(bytes([0x1B, value]) for value in b"\x65\x14\x28\x29\x3c\x3e\x3d\x40\x2f\x0a")

    assert decode_gsm7(septets + pairs) == ALPHABET + "\f"


def test_fakesmsc_lines_are_read_back() -> None:
    log = (
        b"2026-01-01 00:00:00 [1] [0] INFO: fakesmsc starting\n"
        b"2026-01-01 00:00:00 [1] [0] DEBUG: Got message 1: <BRAND +254711000001 text one>\n"
        b"2026-01-01 00:00:00 [1] [0] DEBUG: Got message 2: <two <2> >\n"
        b"2026-01-01 00:00:00 [1] [0] DEBUG: Got message 3: <BRAND +254711000002 ucs-2 %D8%3D%DE%00+a>\n"
        b"2026-01-01 00:00:00 [1] [0] DEBUG: Got message 4: <BRAND +254711000003 udh %05%00%03%01%02%01 data a+b%0A>\n"
    )

    assert read_fakesmsc(log) == [
        Part("BRAND", "254711000001", "", b"", b"one\ntwo <2> "),
        Part("BRAND", "254711000002", "UCS-2", b"", b"\xd8\x3d\xde\x00 a"),
        Part("BRAND", "254711000003", "", b"\x05\x00\x03\x01\x02\x01", b"a b\n"),
    ]
