"""A recipient is one number, stored in one E.164 form, or is refused with a reason."""

import pickle
import re

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.msisdn import SENTENCES, InvalidNumber, country, msisdn, normalize


@pytest.mark.parametrize(
    ("typed", "default_region", "e164"),
    [
        # E.164 comes out as it went in, whatever the default region.
        ("+254711000001", None, "+254711000001"),
        ("+254711000001", "US", "+254711000001"),
        ("+254712345678", None, "+254712345678"),
        ("+254110000001", None, "+254110000001"),  # KE mobile beyond 07
        ("+447400123456", None, "+447400123456"),  # GB
        ("+12015550123", None, "+12015550123"),  # US: fixed line or mobile, which nobody can tell apart there
        ("+4915112345678", None, "+4915112345678"),  # DE
        ("+2348031234567", None, "+2348031234567"),  # NG
        ("+254202012345", None, "+254202012345"),  # fixed line: let through
        ("+445612345678", None, "+445612345678"),  # VoIP: let through
        ("+6834000", None, "+6834000"),  # NU: the shortest there are
        # Formatting characters, balanced parentheses and spaces around.
        (" +254 711 000 001 ", None, "+254711000001"),
        ("+ 254-711-000-001", None, "+254711000001"),
        ("+254.711.000.001", None, "+254711000001"),
        ("+1 (415) 555-2671", None, "+14155552671"),
        ("+39 (06) 1234 5678", None, "+390612345678"),  # in Italy the 0 belongs to the number
        # National form, with and without the national prefix.
        ("0711000001", "KE", "+254711000001"),
        ("711000001", "KE", "+254711000001"),
        ("(0711) 000-001", "KE", "+254711000001"),
        ("(0)711 000001", "KE", "+254711000001"),
        ("(415) 555-2671", "US", "+14155552671"),
        ("1-415-555-2671", "US", "+14155552671"),
        ("06 1234 5678", "IT", "+390612345678"),
        ("07400 123456", "GB", "+447400123456"),
        # The country code without +, and the international prefix, as the default region dials.
        ("254711000001", "KE", "+254711000001"),
        ("00254711000001", "DE", "+254711000001"),
        ("00 44 7400 123456", "DE", "+447400123456"),
        ("000254711000001", "KE", "+254711000001"),  # KE dials 000
        ("011 254 711 000001", "US", "+254711000001"),
    ],
)
def test_a_typed_number_has_one_e164_form(typed, default_region, e164):
    assert normalize(typed, default_region) == e164
    assert normalize(e164, None) == e164


@pytest.mark.parametrize(
    ("typed", "default_region", "code"),
    [
        # Not one string with one number in it.
        (None, "KE", "not_a_string"),
        (254711000001, "KE", "not_a_string"),
        (True, "KE", "not_a_string"),
        (["+254711000001"], "KE", "not_a_string"),
        (b"+254711000001", "KE", "not_a_string"),
        ("", "KE", "blank"),
        (" ", "KE", "blank"),
        ("\t\r\n", "KE", "blank"),
        ("+254711000001,+254711000002", "KE", "several_numbers"),
        ("+254711000001; +254711000002", "KE", "several_numbers"),
        ("+254711000001 +254711000002", "KE", "several_numbers"),
        ("0711000001/0711000002", "KE", "several_numbers"),
        ("0711000001 0711000002", "KE", "too_long"),  # a space may stand within a number
        # More than a number.
        ("tel:+254711000001", "KE", "tel_uri"),
        ("TEL:+254711000001", "KE", "tel_uri"),
        ("+254711000001x123", "KE", "extension"),
        ("+254711000001 ext. 123", "KE", "extension"),
        ("+254711000001;ext=123", "KE", "extension"),
        ("0711000001#123", "KE", "extension"),
        ("1-800-FLOWERS", "US", "letters"),
        ("Mum", "KE", "letters"),
        # Characters that look right, or do not show.
        ("٠٧١١٠٠٠٠٠١", "KE", "unexpected_character"),  # Arabic-Indic digits
        ("+٢٥٤٧١١٠٠٠٠٠١", "KE", "unexpected_character"),
        ("+25471100000₁", "KE", "unexpected_character"),  # a subscript
        ("＋254711000001", "KE", "unexpected_character"),  # a full-width plus
        ("+254711000001\n", "KE", "unexpected_character"),
        ("+254711000001\r\nX", "KE", "letters"),
        ("+2547110\x0000001", "KE", "unexpected_character"),
        ("+254\u00a0711\u00a0000\u00a0001", "KE", "unexpected_character"),  # no-break spaces
        ("\u202a+254711000001\u202c", "KE", "unexpected_character"),  # copied from a contact list
        ("\u200b", "KE", "unexpected_character"),
        ("\ud800", "KE", "unexpected_character"),
        # Not the shape of a number.
        ("+", "KE", "malformed"),
        ("()", "KE", "malformed"),
        ("++254711000001", "KE", "malformed"),
        ("+1 (415 555-2671", "KE", "malformed"),
        ("+1 415) 555-2671", "KE", "malformed"),
        ("-254711000001", "KE", "malformed"),
        ("*144#", "KE", "malformed"),
        # National form, and nobody to say of which country: also when the setting is no region at all.
        ("0711000001", None, "no_default_region"),
        ("254711000001", None, "no_default_region"),
        ("0711000001", "Kenya", "no_default_region"),
        # Country codes.
        ("+999123456789", "KE", "unknown_country_code"),
        ("+0711000001", "KE", "unknown_country_code"),
        # A national prefix after the country code: drop it, or does it belong? We do not guess.
        ("+44 (0)7700 900123", "KE", "national_prefix"),
        ("+44 (0)7400 123456", "KE", "national_prefix"),
        ("+44 07400 123456", "KE", "national_prefix"),
        ("+254 0711 000001", "KE", "national_prefix"),
        ("254 0711 000001", "KE", "national_prefix"),
        ("0044 (0)7400 123456", "DE", "national_prefix"),
        ("+39 (0)6 1234 5678", "KE", "national_prefix"),
        # Length.
        ("1", "KE", "too_short"),
        ("+25", "KE", "too_short"),
        ("112", "KE", "too_short"),
        ("40404", "KE", "too_short"),  # a short code
        ("5552671", "US", "too_short"),  # without its area code
        ("+43 1110", "KE", "too_short"),  # a fixed line in Vienna, valid, and too short for the form we store
        ("+25471100000", "KE", "invalid"),  # right for some number in Kenya, not for a mobile one
        ("+2547110000011", "KE", "invalid"),
        ("+254711000001111", "KE", "too_long"),
        ("+" + "1" * 30, "KE", "too_long"),
        ("1" * 1000, "KE", "too_long"),
        ("00254711000001", "KE", "too_long"),  # KE dials 000
        # Of the right length, and in no range that is in use.
        ("+447700900123", "KE", "invalid"),  # set aside by Ofcom for films and books
        ("+254311000001", "KE", "invalid"),
        # In use, and not for SMS.
        ("+870773111632", "KE", "global_network"),  # Inmarsat
        ("+881612345678", "KE", "global_network"),  # satellite
        ("+8823421234", "KE", "global_network"),
        ("+883510012345", "KE", "global_network"),
        ("+878101234567890", "KE", "global_network"),
        ("+979123456789", "KE", "global_network"),  # international premium rate
        ("+80012345678", "KE", "global_network"),  # international freephone
        ("+254900223456", "KE", "premium_rate"),
        ("0900 223456", "KE", "premium_rate"),
        ("+19002345678", "KE", "premium_rate"),
        ("+4918012345", "KE", "shared_cost"),
        ("+18002345678", "KE", "toll_free"),
        ("+254800223456", "KE", "toll_free"),
        ("+447012345678", "KE", "personal_number"),
        ("+447640123456", "KE", "pager"),
        ("+445512345678", "KE", "company_number"),
        ("+49177991234567", "KE", "voicemail"),
    ],
)
def test_what_is_not_one_reachable_number_is_refused_with_its_reason(typed, default_region, code):
    with pytest.raises(InvalidNumber) as refused:
        normalize(typed, default_region)

    assert refused.value.code == code
    assert str(refused.value) == SENTENCES[code]


def test_the_numbers_used_across_the_tests_and_the_demo_are_valid():
    numbers = [f"+2547000000{n:02}" for n in range(100)] + [f"+25471100{n:04}" for n in range(10_000)]

    assert [number for number in numbers if normalize(number, None) != number] == []


def test_the_kind_of_a_number_is_unknown_exactly_when_it_is_not_valid():
    # normalize() asks for the kind alone, and takes UNKNOWN for not valid.
    kind_unknown = phonenumbers.PhoneNumberType.UNKNOWN
    for region in phonenumbers.SUPPORTED_REGIONS:
        for number in (phonenumbers.example_number(region), phonenumbers.invalid_example_number(region)):
            is_valid = phonenumbers.is_valid_number(number)
            assert (phonenumbers.number_type(number) != kind_unknown) == is_valid


def test_msisdn_is_e164_without_its_plus():
    assert msisdn("+254711000001") == "254711000001"


def test_country_tells_apart_the_countries_of_one_country_code():
    assert country("+254711000001") == "KE"
    assert country("+12015550123") == "US"
    assert country("+14165550123") == "CA"
    assert country("+447700900123") is None  # not valid


def test_a_refusal_can_be_pickled():  # as between the processes of a parallel test run
    assert pickle.loads(pickle.dumps(InvalidNumber("blank"))).code == "blank"


REGIONS = st.none() | st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)) | st.just("Kenya")
NUMBER_LIKE = st.from_regex(r"[ +(]{0,3}[0-9(). -]{0,25}(;ext=|x|,|\n)?[0-9]{0,4}", fullmatch=True)


@st.composite
def nearly_valid_numbers(draw: st.DrawFn) -> tuple[str, str]:
    """Draw an example number of any kind, in national or international form, a few digits changed, and its region."""
    region = draw(st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)))
    kind = draw(st.sampled_from(range(11)))
    number = phonenumbers.example_number_for_type(region, kind) or phonenumbers.example_number(region)
    formats = phonenumbers.PhoneNumberFormat
    typed = list(phonenumbers.format_number(number, draw(st.sampled_from([formats.NATIONAL, formats.INTERNATIONAL]))))
    for _ in range(draw(st.integers(0, 4))):
        typed[draw(st.integers(0, len(typed) - 1))] = draw(st.sampled_from("0123456789"))
    return "".join(typed), region


@settings(max_examples=1000, deadline=None)
@given(st.tuples(st.text() | NUMBER_LIKE, REGIONS) | nearly_valid_numbers())
def test_any_text_is_one_e164_form_or_a_refusal(case):
    typed, default_region = case
    try:
        e164 = normalize(typed, default_region)
    except InvalidNumber as refused:
        assert refused.code in SENTENCES
    else:
        assert re.fullmatch(r"\+[1-9][0-9]{6,14}", e164)
        assert normalize(e164, default_region) == normalize(e164, None) == e164
        assert country(e164)
