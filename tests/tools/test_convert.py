"""Units and money: against defining factors, by hand, and against the table the embedded model was trained with."""

from fractions import Fraction

import pytest

from attnviz.demo.text.world import CONVERSIONS
from attnviz.hooks import BadInput
from attnviz.plugins.tools import convert, currency
from attnviz.testing import check_tool


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("12 km to miles", "7.46 miles"),  # 12 / 1.609344 = 7.4564...
        ("100 C to F", "212 F"),
        ("-40 F to C", "-40 C"),
        ("0 C to K", "273.15 K"),
        ("1 mile in km", "1.61 km"),
        ("1 bar to psi", "14.5 psi"),  # 14.5038
        ("3.6 MJ to kWh", "1 kWh"),
        ("1 kwh to mj", None),  # mJ or MJ?
        ("1 MW to mW", "1000000000 mW"),
        ("90 km/h to m/s", "25 m/s"),
        ("5 feet to cm", "152.4 cm"),
        ("1 mm to miles", "0.000000621 miles"),
        ("2.5 hours to minutes", "150 minutes"),
    ],
)
def test_conversions(request_, expected):
    if expected is None:
        with pytest.raises(BadInput, match="unknown unit mj"):
            convert.convert(request_)
    else:
        assert convert.convert(request_) == expected


def test_every_conversion_of_the_training_text_is_close_to_the_trained_one():
    for (source, target), factor in CONVERSIONS.items():
        if currency.code_of(source):
            continue
        number = convert.convert(f"1000 {source} to {target}").split()[0]
        assert float(number) == pytest.approx(1000 * factor, rel=1e-3)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("12 km to kg", "km is a unit of length and kg of mass"),
        ("12 smoots to km", "unknown unit smoots"),
        ("12 km", "expected an amount and two units"),
        ("", "expected an amount"),
        ("9" * 300, "expected an amount"),
        ("1 km to dollars", "unknown unit dollars"),
    ],
)
def test_what_cannot_be_converted_is_said(request_, words):
    with pytest.raises(BadInput, match=words):
        convert.convert(request_)


def test_money_is_changed_at_the_rates_of_a_day_that_is_said():
    date, per_euro = currency.rates()
    assert (date, per_euro["USD"], per_euro["JPY"]) == ("2026-10-30", Fraction("1.1172"), Fraction("175.68"))
    assert currency.change("250 EUR to USD") == "279.3 USD, ECB 2026-10-30"  # 250 * 1.1172
    assert currency.change("1000 yen to dollars") == "6.36 dollars, ECB 2026-10-30"  # 1000 / 175.68 * 1.1172 = 6.3593
    assert convert.convert("250 euros to dollars") == "279.3 dollars, ECB 2026-10-30"
    with pytest.raises(BadInput, match=r"unknown currency doubloons\. Known: AUD, BRL"):
        currency.change("3 doubloons to USD")


def test_junk_gives_words():
    for module, good in ((convert, "12 km to miles"), (currency, "1 EUR to USD")):
        check_tool(module.attnviz_tools()[0], request=good)
