"""A text is counted, and charged, as the standard and the providers count it."""

import pytest
import smsutil
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.segments import BASIC_CHARACTERS, EXTENSION_CHARACTERS, Segmentation, count, split

A_PART = {"GSM-7": 153, "UCS-2": 67}  # units a part carries
ALONE = {"GSM-7": 160, "UCS-2": 70}  # units a single segment carries
SMSUTIL_NAMES = {"gsm0338": "GSM-7", "utf_16_be": "UCS-2"}


@pytest.mark.parametrize(
    ("text", "encoding", "segments", "units", "units_left"),
    [
        # One segment ends at 160 septets; from there each part carries 153.
        ("", "GSM-7", 0, 0, 160),  # nothing to send; blank texts are refused before
        ("a", "GSM-7", 1, 1, 159),
        ("a" * 160, "GSM-7", 1, 160, 0),
        ("a" * 161, "GSM-7", 2, 161, 145),
        ("a" * 306, "GSM-7", 2, 306, 0),
        ("a" * 307, "GSM-7", 3, 307, 152),
        ("a" * 918, "GSM-7", 6, 918, 0),
        ("a" * 919, "GSM-7", 7, 919, 152),
        # The ten extension characters take two septets each.
        ("^{}[]~|\\€\f", "GSM-7", 1, 20, 140),
        ("€" * 80, "GSM-7", 1, 160, 0),
        ("€" * 80 + "a", "GSM-7", 2, 161, 144),  # 76 € fill 152 septets; the 153rd stays empty
        ("a" * 159 + "€", "GSM-7", 2, 161, 145),
        # At the end of a part an extension character moves whole: 152 used, 1 lost.
        ("a" * 151 + "€" + "a" * 153, "GSM-7", 2, 306, 0),  # ends on the 153rd septet
        ("a" * 152 + "€" + "a" * 152, "GSM-7", 3, 306, 152),  # would straddle it, and costs a third segment
        ("€" * 153, "GSM-7", 3, 306, 151),  # 76 + 76 + 1, though 306 septets are two full parts
        # One segment ends at 70 code units; from there each part carries 67.
        ("я" * 70, "UCS-2", 1, 70, 0),
        ("я" * 71, "UCS-2", 2, 71, 63),
        ("я" * 134, "UCS-2", 2, 134, 0),
        ("я" * 135, "UCS-2", 3, 135, 66),
        ("я" * 402, "UCS-2", 6, 402, 0),
        ("я" * 403, "UCS-2", 7, 403, 66),
        # A character beyond U+FFFF takes two code units, and moves whole too.
        ("😀", "UCS-2", 1, 2, 68),
        ("😀" * 35, "UCS-2", 1, 70, 0),
        ("😀" * 35 + "a", "UCS-2", 2, 71, 62),  # 33 emoji fill 66; the 67th stays empty
        ("a" * 69 + "😀", "UCS-2", 2, 71, 63),
        ("a" * 65 + "😀" + "a" * 67, "UCS-2", 2, 134, 0),  # ends on the 67th code unit
        ("a" * 66 + "😀" + "a" * 66, "UCS-2", 3, 134, 66),  # would straddle it, and costs a third segment
        ("👩‍👩‍👧", "UCS-2", 1, 8, 62),  # one family on the screen: three emoji and two joiners
        # In UCS-2 an extension character is a character like any other: one code unit.
        ("я^{}[]~|\\€\f", "UCS-2", 1, 11, 59),
        ("€" * 69 + "я", "UCS-2", 1, 70, 0),
        # Line ends are in the alphabet, and counted as given: CR LF is two.
        ("a\r\nb\n", "GSM-7", 1, 5, 155),
    ],
)
def test_units_and_segments_at_the_edges(text, encoding, segments, units, units_left):
    counted = count(text)

    assert (counted.encoding, counted.segments, counted.units, counted.units_left) == (
        encoding,
        segments,
        units,
        units_left,
    )
    assert len(split(text)) == segments


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("Plain, @£$¥ èéùìò ÄÖÑÜ äöñüà ΔΦΓΛΩΠΨΣΘΞ ÆæßÉ ¡¿§¤", ()),
        ("It’s “here” – now…", ("’", "“", "”", "–", "…")),  # what word processors make of quotes, dashes and dots
        ("naïve façade", ("ï", "ç")),  # ç is not in the alphabet, though Ç is (code 0x09)
        ("áéíóú", ("á", "í", "ó", "ú")),  # é is in the alphabet, the other acute accents are not
        ("a`b\tc\xa0d", ("`", "\t", "\xa0")),  # backtick, TAB and no-break space are not
        ("e\u0301", ("\u0301",)),  # é as two characters: not normalized, for a text is sent as given
        ("\u0391\u2126", ("\u0391", "\u2126")),  # Greek Alpha and the ohm sign, lookalikes of A and Ω
        ("яа😀яя😀", ("я", "а", "😀")),  # each once, in order of first appearance
        ("[€] {я}", ("я",)),  # extension characters force nothing
        ("\x1b", ("\x1b",)),  # the escape code is not a character
        ("\x00", ("\x00",)),
    ],
)
def test_the_characters_that_force_ucs2_are_named(text, characters):
    counted = count(text)

    assert counted.characters_forcing_ucs2 == characters
    assert counted.encoding == ("UCS-2" if characters else "GSM-7")


def test_a_part_ends_before_a_pair_that_would_straddle_it():
    assert split("a" * 152 + "€" + "a" * 10) == ["a" * 152, "€" + "a" * 10]
    assert split("a" * 66 + "😀" + "a" * 10) == ["a" * 66, "😀" + "a" * 10]


def test_a_lone_surrogate_cannot_be_counted():
    for text in ("\ud83d", "\ude00", "a\ud800" * 80):
        with pytest.raises(UnicodeEncodeError):
            count(text)
        with pytest.raises(UnicodeEncodeError):
            split(text)


def test_a_segmentation_cannot_be_changed():
    with pytest.raises(AttributeError):
        count("a").segments = 2


# Runs of one piece make texts long enough to meet the edges, at any distance from them.
PIECES = (
    *("a", "Hello ", "@", "\n", "\r", "€", "\f", "|", "[x]", "^{}", "~\\"),  # GSM-7
    *("я", "ç", "\u200b", "\ufffd", "😀", "👩‍👧", "\U0010ffff"),  # UCS-2
)


def texts_of(pieces: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Texts of a few runs of one of the pieces each."""
    runs = st.builds(str.__mul__, st.sampled_from(pieces), st.integers(0, 160))
    return st.lists(runs, max_size=6).map("".join)


TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=BASIC_CHARACTERS + EXTENSION_CHARACTERS, max_size=400),
    texts_of(PIECES[:11]),
    texts_of(PIECES),
)


# smsutil differs for two kinds of text only, each with a test of its own below.
@settings(max_examples=500, deadline=None)
@given(TEXTS.filter(lambda text: text and "\x1b" not in text))
def test_smsutil_counts_the_same(text):
    counted = count(text)
    oracle = smsutil.split(text)

    assert counted.encoding == SMSUTIL_NAMES[oracle.encoding]
    assert counted.segments == len(oracle.parts)
    assert counted.units * (1 if counted.encoding == "GSM-7" else 2) == oracle.total_bytes  # septets, or octets
    assert split(text) == [part.content for part in oracle.parts]


def test_the_alphabet_is_that_of_smsutil_in_code_order_without_the_escape():
    assert smsutil.codecs.GSM_BASIC_CHARSET.replace("\x1b", "") == BASIC_CHARACTERS
    assert smsutil.codecs.GSM_BASIC_CHARSET.index("\x1b") == 0x1B
    assert smsutil.codecs.GSM_EXT_CHARSET == EXTENSION_CHARACTERS


def test_smsutil_takes_the_escape_code_for_a_character_and_we_do_not():
    # 3GPP TS 23.038, section 6.2.1, note 1: 0x1B "is an escape to an extension of the GSM 7 bit default alphabet
    # table". Sent as GSM-7, U+001B would turn what follows into something else: these two texts become the same octets.
    assert smsutil.split("\x1be").encoding == "gsm0338"
    assert smsutil.encode("\x1be") == smsutil.encode("€")

    assert count("\x1be").encoding == "UCS-2"


def test_smsutil_counts_an_empty_text_as_one_segment_of_ucs2_and_we_as_none():
    # The standard has no say: it allows a segment without text. Here there is nothing to send or to charge for.
    assert len(smsutil.split("").parts) == 1
    assert smsutil.split("").encoding == "utf_16_be"

    assert count("") == Segmentation("GSM-7", segments=0, units=0, units_left=160)


def units_of(text: str, encoding: str) -> int:
    """Septets or code units, one character at a time."""
    pairs = EXTENSION_CHARACTERS if encoding == "GSM-7" else [c for c in text if c > "\uffff"]
    return sum(2 if character in pairs else 1 for character in text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_parts_join_to_the_text_and_fit(text):
    counted = count(text)
    parts = split(text)
    units = [units_of(part, counted.encoding) for part in parts]
    room = ALONE[counted.encoding] if len(parts) <= 1 else A_PART[counted.encoding]

    # Parts are whole characters, and a pair is one character here: so no pair is split.
    assert "".join(parts) == text
    assert all(0 < n <= room for n in units)
    assert len(parts) == counted.segments
    assert sum(units) == counted.units
    assert counted.units_left == room - (units[-1] if units else 0)


def fewest_parts(units: list[int], room: int) -> int:
    """Return the fewest parts that hold characters of these units, over all ways to cut between characters."""
    fewest = [0]  # of the first n characters
    for n in range(1, len(units) + 1):
        used, best = 0, n
        for start in range(n - 1, -1, -1):
            used += units[start]
            if used > room:
                break
            best = min(best, fewest[start] + 1)
        fewest.append(best)
    return fewest[-1]


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_no_other_way_to_cut_needs_fewer_segments(text):
    counted = count(text)
    units = [units_of(character, counted.encoding) for character in text]

    if counted.units > ALONE[counted.encoding]:
        assert counted.segments == fewest_parts(units, A_PART[counted.encoding])
    else:
        assert counted.segments == (1 if text else 0)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.text(max_size=3))
def test_more_text_never_costs_less(text, more):
    assert count(text + more).segments >= count(text).segments
