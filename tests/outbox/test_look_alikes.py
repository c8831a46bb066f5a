"""Names that a reader could take for each other fold to the same."""

import pytest

from outbox.look_alikes import fold


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("PAYPAL", "paypal"),
        ("PAYPAL", "PAY PAL"),
        ("PAYPAL", "Pay-Pal."),
        ("PAYPAL", "PayPaI"),  # a capital i
        ("PAYPAL", "PAYPA1"),
        ("PAYPAL", "PΑΥΡΑL"),  # Greek
        ("paypal", "раура1"),  # Cyrillic
        ("PAYPAL", "ＰＡＹＰＡＬ"),  # full width
        ("PAYPAL", "PÁYPÀL"),
        ("PAYPAL", "PAY\u200bPAL"),
        ("VODAFONE", "V0DAF0NE"),
        ("MPESA", "M-PE5A"),
        ("MPESA", "rnpesa"),
        ("EWALLET", "3VVALLET"),
        ("BANK", "8ANK"),
        ("KCB", "КСВ"),  # Cyrillic
        ("NIKE", "ΝΙΚΕ"),  # a Greek capital, which small would be a v
        ("STRASSE", "Straße"),
    ],
)
def test_look_alikes_are_one(name, other):
    assert fold(name) == fold(other)


@pytest.mark.parametrize(
    ("name", "other"),
    [("PAYPAL", "PAYPALS"), ("SHOP", "SHIP"), ("KCB", "KCA"), ("TAXI9", "TAXI6"), ("ABC", "CBA")],
)
def test_what_is_read_differently_stays_apart(name, other):
    assert fold(name) != fold(other)


@pytest.mark.parametrize("nothing", ["", " ", "-.", "\u200b", "\ud800", "\x00\r\n", "😀"])
def test_without_letters_and_digits_nothing_is_left(nothing):
    assert fold(nothing) == ""


@pytest.mark.parametrize("name", ["PAYPAL", "M-PESA", "Straße", "rrn", "vvv", "rvvn"])
def test_folding_again_changes_nothing_that_was_folded(name):
    assert fold(fold(name)) == fold(name)
