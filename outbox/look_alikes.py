"""Names that look alike on a handset are one name: "PAY PAL", "PayPaI" and "ΡΑΥΡΑL" are "paypal"."""

import unicodedata

# Letters of other scripts that are drawn as Latin ones (Unicode, UTS #39, confusables.txt). Told apart by case before
# it is given up: a Greek capital Ν is an N, the small ν a v.
_CYRILLIC = str.maketrans("АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝ", "ABESIJKMHOPCTYXaesijopcyxhdqw")
_GREEK = str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγικνορυ", "ABEZHIKMNOPTYXayikvopu")
# What is mistaken within ASCII: 0, 1 and I stand in confusables.txt too; the other digits are written for letters.
_ASCII = str.maketrans("0123458i", "olzeasbl")
# Small letters that join into another one (confusables.txt).
_JOINED = (("rn", "m"), ("vv", "w"))


def fold(name: str) -> str:
    """The one form of all names that look like this one: lower-case letters and digits; "" if it has none."""
    compatible = unicodedata.normalize("NFKD", name).translate(_CYRILLIC).translate(_GREEK)
    folded = "".join(filter(str.isalnum, compatible.casefold())).translate(_ASCII)
    for joined, letter in _JOINED:
        folded = folded.replace(joined, letter)
    return folded
