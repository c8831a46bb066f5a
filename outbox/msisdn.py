"""Typed number to E.164 (ITU-T E.164: `+`, country code, national number, at most 15 digits), and back to MSISDN.

The syntax accepted is ours, and strict. The numbering plans are those of `phonenumbers`, which follows their changes
with a release every few weeks: upgrade it often.
"""

import re

import phonenumbers
from phonenumbers import CountryCodeSource, NumberParseException, PhoneNumber, PhoneNumberType, ValidationResult

# Spaces, hyphens and dots may stand between digits, and parentheses around some of them: "+1 (415) 555-2671".
_TYPED = re.compile(r" *(?:\+ *)?(?:[0-9]|\([0-9]+\))(?:[ .-]*(?:[0-9]|\([0-9]+\)))* *")
_SEPARATORS = str.maketrans("", "", " .-")
_PARENTHESES = str.maketrans("", "", "()")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")

# What is wrong with a text that is not _TYPED, spaces aside: the first pattern found tells.
_MISTAKES = (
    (re.compile(r"^tel:", re.IGNORECASE), "tel_uri"),
    (re.compile(r"[0-9)](?:#|[;,]?(?:x|ext|extn|extension)[.:=]*)[0-9]+\Z", re.IGNORECASE), "extension"),
    (re.compile(r"[A-Za-z]"), "letters"),
    (re.compile(r"[^!-~]"), "unexpected_character"),  # not printable ASCII: also a digit of another script
    (re.compile(r"[0-9)][,;/|&+].*[0-9]"), "several_numbers"),
)

# Valid numbers that an SMS cannot reach, or that charge whoever sends to them: personal numbers (UK 070) are an old
# premium-rate trick. The other kinds are let through: mobile; fixed line, since in North America it cannot be told from
# mobile, and elsewhere many are enabled for SMS; VoIP for the same reason. The provider's answer decides those.
_REFUSED_KINDS = {
    PhoneNumberType.PREMIUM_RATE: "premium_rate",
    PhoneNumberType.SHARED_COST: "shared_cost",
    PhoneNumberType.TOLL_FREE: "toll_free",
    PhoneNumberType.PERSONAL_NUMBER: "personal_number",
    PhoneNumberType.PAGER: "pager",
    PhoneNumberType.UAN: "company_number",
    PhoneNumberType.VOICEMAIL: "voicemail",
}

_NOT_A_COUNTRY = "001"  # what phonenumbers calls +870, +881, +882, +883, +878, +979 and the like

_PARSE_ERRORS = {
    NumberParseException.INVALID_COUNTRY_CODE: "unknown_country_code",
    NumberParseException.TOO_LONG: "too_long",
}
_WRONG_LENGTHS = {
    ValidationResult.TOO_SHORT: "too_short",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "too_short",
    ValidationResult.TOO_LONG: "too_long",
}

SENTENCES = {
    "not_a_string": "The number must be a string.",
    "blank": "The number is empty.",
    "tel_uri": "Write the number alone, without tel:.",
    "extension": "An SMS cannot reach an extension; write the number alone.",
    "letters": "The number contains letters; write digits.",
    "unexpected_character": "The number contains a character other than 0-9, +, space, hyphen, dot and parentheses.",
    "several_numbers": "Write one number only.",
    "malformed": "This is not a phone number; write it like +254711000001, parentheses in pairs.",
    "no_default_region": "Write the number in international form, starting with + and the country code.",
    "unknown_country_code": "No country has this country code.",
    "national_prefix": "After the country code, leave out the prefix dialled within the country, such as (0).",
    "too_short": "The number is too short; short codes and numbers without their area code cannot be reached.",
    "too_long": "The number has too many digits.",
    "invalid": "No such number is in use in its country.",
    "global_network": "Satellite and other global networks cannot be reached.",
    "premium_rate": "Premium-rate numbers cannot be sent to.",
    "shared_cost": "Shared-cost numbers cannot be sent to.",
    "toll_free": "Toll-free numbers cannot be sent to.",
    "personal_number": "Personal numbers, which forward at the caller's cost, cannot be sent to.",
    "pager": "Pagers cannot be sent to.",
    "company_number": "Company-wide access numbers cannot be sent to.",
    "voicemail": "Voicemail numbers cannot be sent to.",
}


class InvalidNumber(ValueError):
    """No SMS is sent to this number: `code` is a stable word, a key of SENTENCES; str() the sentence for a person."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return SENTENCES[self.code]


def normalize(typed: object, default_region: str | None) -> str:
    """Read a number as a person or an app wrote it; return its one E.164 form, "+254711000001".

    default_region: ISO 3166-1 alpha-2, "KE": the country of numbers in national form ("0711 000001"), or with the
    international prefix dialled there ("000" in KE, "00" in DE), or with its country code but no +. None refuses these.
    Raises InvalidNumber, and nothing else, for all that is not one number that an SMS may be sent to.
    """
    compact = _compact(typed)
    dialled = compact.translate(_PARENTHESES)
    number = _parse(dialled, default_region)
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    # phonenumbers drops a national prefix after a country code, "+44 (0)7400...", by guessing: a guess may reach a
    # stranger, so an international number must be written as it is stored.
    is_international = number.country_code_source != CountryCodeSource.FROM_DEFAULT_COUNTRY
    if is_international and ("(0)" in compact or not dialled.endswith(msisdn(e164))):
        raise InvalidNumber("national_prefix")
    _refuse_unreachable(number)
    if not _E164.fullmatch(e164):  # ten fixed lines in Vienna, shorter than any mobile number anywhere
        raise InvalidNumber("too_short")
    return e164


def msisdn(e164: str) -> str:
    """Return an E.164 number without its +, as many gateways want it."""
    return e164.removeprefix("+")


def country(e164: str) -> str | None:
    """Return the ISO 3166-1 alpha-2 code of the country of a normalized number; None once it is no longer valid."""
    return phonenumbers.region_code_for_number(phonenumbers.parse(e164))


def _compact(typed: object) -> str:
    """Return only the digits, parentheses and leading + of what looks like one number."""
    if not isinstance(typed, str):
        raise InvalidNumber("not_a_string")
    if _TYPED.fullmatch(typed):
        return typed.translate(_SEPARATORS)
    if not typed.strip():
        raise InvalidNumber("blank")
    joined = typed.replace(" ", "")
    raise InvalidNumber(next((code for mistake, code in _MISTAKES if mistake.search(joined)), "malformed"))


def _parse(dialled: str, default_region: str | None) -> PhoneNumber:
    """Tell country code and national number apart."""
    if not dialled.startswith("+") and default_region not in phonenumbers.SUPPORTED_REGIONS:
        raise InvalidNumber("no_default_region")
    try:
        return phonenumbers.parse(dialled, default_region, keep_raw_input=True)  # which records country_code_source
    except NumberParseException as error:
        code = _PARSE_ERRORS.get(error.error_type, "too_short")  # the others: too few digits to tell
        raise InvalidNumber(code) from error


def _refuse_unreachable(number: PhoneNumber) -> None:
    """Refuse what is not a number in use, or is of a kind that is not sent to.

    In use means valid, in a range its country has given out, not just possible, of the right length: a mistyped number
    costs the sender a segment. The price is that a range opened since the last upgrade of phonenumbers is refused.
    """
    if phonenumbers.region_code_for_country_code(number.country_code or 0) == _NOT_A_COUNTRY:
        raise InvalidNumber("global_network")
    kind = phonenumbers.number_type(number)  # UNKNOWN exactly when is_valid_number() is false
    if kind == PhoneNumberType.UNKNOWN:
        raise InvalidNumber(_WRONG_LENGTHS.get(phonenumbers.is_possible_number_with_reason(number), "invalid"))
    if kind in _REFUSED_KINDS:
        raise InvalidNumber(_REFUSED_KINDS[kind])
