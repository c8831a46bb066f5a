"""Texts at every edge where gateways and the standard may count parts differently."""

from dataclasses import dataclass

from .parts import BASIC, EXTENSION

EXTENDED = frozenset(EXTENSION.values())
GSM7 = (frozenset(BASIC) - {"\x1b"}) | EXTENDED
SINGLE = {"GSM-7": 160, "UCS-2": 70}
CONCATENATED = {"GSM-7": 153, "UCS-2": 67}


@dataclass(frozen=True)
class Text:
    name: str
    text: str

    @property
    def encoding(self) -> str:
        return "GSM-7" if GSM7.issuperset(self.text) else "UCS-2"

    def sizes(self) -> list[int]:
        """Septets or UTF-16 units of each character."""
        if self.encoding == "GSM-7":
            return [2 if character in EXTENDED else 1 for character in self.text]
        return [2 if ord(character) > 0xFFFF else 1 for character in self.text]

    def standard_count(self) -> int:
        """Parts when neither an escape pair nor a surrogate pair is cut (3GPP TS 23.038, 6.1)."""
        if sum(self.sizes()) <= SINGLE[self.encoding]:
            return 1
        count, used = 1, 0
        for size in self.sizes():
            if used + size > CONCATENATED[self.encoding]:
                count, used = count + 1, 0
            used += size
        return count

    def kannel_count(self) -> int:
        """Kannel 1.4.5 keeps escape pairs whole and cuts surrogate pairs."""
        units = sum(self.sizes())
        if self.encoding == "GSM-7" or units <= SINGLE["UCS-2"]:
            return self.standard_count()
        return -(-units // CONCATENATED["UCS-2"])


ALPHABET = "".join(character for character in BASIC if character != "\x1b") + "€^{}[]~|\\"

EDGES = [
    *(Text(f"{n} a", "a" * n) for n in (1, 153, 154, 159, 160, 161, 305, 306, 307, 459, 460, 612, 613, 765, 918, 919)),
    *(Text(f"{n} €", "€" * n) for n in (1, 76, 77, 80, 81, 152, 153, 228, 229)),
    *(Text(f"{n} a, €", "a" * n + "€") for n in (157, 158, 159, 160)),
    *(Text(f"{n} a, €, {k} a", "a" * n + "€" + "a" * k) for n, k in ((151, 10), (152, 10), (153, 10))),  # pair at 153
    *(Text(f"152 a, €, {k} a", "a" * 152 + "€" + "a" * k) for k in (151, 152, 153, 305)),  # the lost septet adds a part
    Text("152 a, €, 150 a, €, 152 a", "a" * 152 + "€" + "a" * 150 + "€" + "a" * 152),
    Text("305 a, €, 10 a", "a" * 305 + "€" + "a" * 10),
    *(Text(f"{n} я", "я" * n) for n in (1, 67, 69, 70, 71, 133, 134, 135, 201, 202, 268, 269, 335, 336, 402, 403)),
    *(Text(f"{n} 😀", "😀" * n) for n in (1, 34, 35, 36, 66, 67, 68, 99, 100, 101, 132, 134, 198, 201)),
    *(Text(f"{n} я, 😀", "я" * n + "😀") for n in (67, 68, 69)),
    *(Text(f"{n} я, 😀, {k} я", "я" * n + "😀" + "я" * k) for n, k in ((65, 10), (66, 3), (67, 10))),  # pair at 67
    *(Text(f"66 я, 😀, {k} я", "я" * 66 + "😀" + "я" * k) for k in (66, 67, 133)),
    *(Text(f"{n} я, 😀, 10 я", "я" * n + "😀" + "я" * 10) for n in (132, 133)),
    Text("the GSM-7 alphabet", ALPHABET),
    Text("the GSM-7 alphabet, 4 times", ALPHABET * 4),
    Text("Ç (GSM-7), 160", "Ç" * 160),
    Text("ç (not GSM-7), 70", "ç" * 70),
    Text("all extension characters", "€^{}[]~|\\" * 18),
    Text("line feeds", "one\n\ntwo\nthree "),
    Text("spaces at both ends", "  code 123456  "),
    Text("what URLs are made of", "100% +sure & more=1;#?/%41%d%%"),
    Text("Arabic", "مرحبا بالعالم " * 10),
    Text("Chinese", "你好，世界" * 30),
    Text("family emoji", "👨‍👩‍👧‍👦 " * 8),
    Text("flags", "🇰🇪" * 20),
    Text("typographic quotes", "It’s “ready” – " * 12),
]
