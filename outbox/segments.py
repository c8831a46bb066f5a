"""Text to encoding and segment count, as a handset and a provider count them.

GSM-7: the default alphabet of 3GPP TS 23.038, one septet a character (section 6.2.1), with its extension table, two
septets a character: an escape, then a code (section 6.2.1.1). National language shift tables are not used: few networks
carry them.
UCS-2: everything else, in UTF-16 code units: one in the Basic Multilingual Plane, two (a surrogate pair) beyond it.

A segment carries 140 octets: 160 septets or 70 code units. A longer text is sent in parts, each of which gives 6 octets
to the concatenation header (3GPP TS 23.040, section 9.2.3.24.1) and keeps 153 septets or 67 code units.
"""

import re
from dataclasses import dataclass

# TS 23.038, section 6.2.1: the sixteen characters of each row in code order; 0x1B is the escape, not a character.
BASIC_CHARACTERS = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
# Section 6.2.1.1, in code order: 0x0A is FORM FEED, 0x65 the euro sign.
EXTENSION_CHARACTERS = "\f^{}\\[~]|€"

# Stands before a character of two units, so that one place in the string is one unit. No text that can be encoded
# holds a lone surrogate, so it is never mistaken for text.
_LEAD = "\ud800"


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a text costs in segments."""

    encoding: str  # "GSM-7" or "UCS-2"
    segments: int
    units: int  # septets (an extension character is 2) or UTF-16 code units (a surrogate pair is 2) of the text
    units_left: int  # free units in the last segment; a whole segment when the text is empty
    characters_forcing_ucs2: tuple[str, ...] = ()  # distinct, in order of first appearance


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How many units one segment carries, and which characters take two of them."""

    name: str
    units_alone: int
    units_per_part: int
    two_units: re.Pattern[str]

    def cut(self, text: str) -> list[str]:
        """Cut into as few parts as possible, with a lead before each character of two units.

        Filling each part before the next is best: what a part takes more, no later part needs to take.
        """
        units = self.two_units.sub(rf"{_LEAD}\g<0>", text)
        return re.findall(rf"(?s).{{0,{self.units_per_part - 1}}}[^{_LEAD}]", units)  # never ends on a lead


_NOT_GSM7 = re.compile(f"[^{re.escape(BASIC_CHARACTERS + EXTENSION_CHARACTERS)}]")
_GSM7 = _Encoding("GSM-7", 160, 153, re.compile(f"[{re.escape(EXTENSION_CHARACTERS)}]"))
_UCS2 = _Encoding("UCS-2", 70, 67, re.compile("[\U00010000-\U0010ffff]"))


def count(text: str) -> Segmentation:
    """Count `text` exactly as given: nothing is trimmed, normalized or transliterated.

    An empty text is GSM-7 with 0 segments: callers refuse blank text before they count it. The number of segments is
    not bounded here, though the header can number no more than 255.
    Raises UnicodeEncodeError for a lone surrogate, which no encoding carries: callers refuse it before.
    """
    forcing_ucs2 = tuple(dict.fromkeys(_NOT_GSM7.findall(text)))
    if forcing_ucs2:
        encoding, units = _UCS2, len(text.encode("utf-16-be")) // 2
    else:
        encoding, units = _GSM7, len(text) + sum(map(text.count, EXTENSION_CHARACTERS))
    if units <= encoding.units_alone:
        return Segmentation(encoding.name, min(units, 1), units, encoding.units_alone - units, forcing_ucs2)
    parts = encoding.cut(text)
    return Segmentation(encoding.name, len(parts), units, encoding.units_per_part - len(parts[-1]), forcing_ucs2)


def split(text: str) -> list[str]:
    """Split `text` into what each segment carries, in order; `count(text).segments` of them, none for an empty text.

    A character of two units, an extension character or a surrogate pair, is never split over two segments.
    Raises UnicodeEncodeError for a lone surrogate.
    """
    counted = count(text)
    if counted.segments <= 1:
        return [text] if text else []
    encoding = _GSM7 if counted.encoding == _GSM7.name else _UCS2
    return [part.replace(_LEAD, "") for part in encoding.cut(text)]
