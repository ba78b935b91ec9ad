"""Numbers and dates as people write them."""

import math

import numpy as np
import pytest

from lmaas.tasks import dates, numerals
from lmaas.tasks.numerals import Notation


def read(*texts: str) -> tuple[Notation, float, list[float | None]]:
    found = numerals.find([(text, 1) for text in texts])
    assert found is not None
    return found.notation, found.share, [numerals.parse(text, found.notation) for text in texts]


@pytest.mark.parametrize(
    ("texts", "decimal", "unit", "values"),
    [
        (("99,17", "-107,36", "5"), ",", "", [99.17, -107.36, 5]),
        (("$5123.40", "-$3", "($4.50)", "$ 7"), ".", "$", [5123.4, -3, -4.5, 7]),
        (("5,123", "2883"), ".", "", [5123, 2883]),
        (("1.234.567,5", "1.000", "12"), ",", "", [1234567.5, 1000, 12]),
        (("1.234", "0.5"), ".", "", [1.234, 0.5]),
        (("0,500", "1,000"), ",", "", [0.5, 1]),
        (("12 %", "3.5%", "7"), ".", "%", [12, 3.5, 7]),
        (("1 234,5", "1\u202f000", "1\u00a0234\u00a0567"), ",", "", [1234.5, 1000, 1234567]),
        (("1'234.5", "2_000"), ".", "", [1234.5, 2000]),
        (("1,23,456", "12,34,567.5"), ".", "", [123456, 1234567.5]),
        (("45 m²", "50m²", "1,200 m²"), ".", "m²", [45, 50, 1200]),
        (("12.5 km/h", "80 km/h"), ".", "km/h", [12.5, 80]),
        (("€ 1.234,50", "99,00 €", "5"), ",", "€", [1234.5, 99, 5]),
        (("USD 5.5", "1,000 USD"), ".", "USD", [5.5, 1000]),
        (("−5", "5-", "1e3", "+2.5E-1"), ".", "", [-5, -5, 1000, 0.25]),
    ],
)
def test_notations_are_told_apart_by_column(
    texts: tuple[str, ...], decimal: str, unit: str, values: list[float]
) -> None:
    notation, share, found = read(*texts)
    assert (notation.decimal, notation.unit, share) == (decimal, unit, 1)
    assert found == pytest.approx(values)


@pytest.mark.parametrize(
    "texts",
    [
        ("1.2.3", "2.0.1"),
        ("192.168.1.1",),
        ("12:30", "13:45"),
        ("12A", "13B", "14C"),
        ("5 USD", "6 EUR"),
        ("555 1234",),
        ("1-2", "3-4"),
        ("1,2,3",),
        ("$5€",),
    ],
)
def test_what_is_no_number_stays_a_text(texts: tuple[str, ...]) -> None:
    assert read(*texts)[1] <= 0.5


def test_codes_and_what_is_missing() -> None:
    for texts in (("01001", "94110"), ("4929123456789012", "1"), ("007",)):
        found = numerals.find([(text, 1) for text in texts])
        assert found is not None
        assert found.code
    found = numerals.find([("0", 1), ("0.5", 1), ("-", 3), ("N/A", 1)])
    assert found is not None
    assert (found.code, found.share, found.plain) == (False, 1, True)
    value = numerals.parse(" - ", Notation())
    assert value is not None
    assert math.isnan(value)
    assert numerals.find([("", 2), ("?", 1)]) is None


@pytest.mark.parametrize(
    ("texts", "form", "other"),
    [
        (("2024-01-31", "2024-02-01T10:30:00+02:00"), "iso", None),
        (("01/02/2024", "03/04/2024"), "%m/%d/%Y", "%d/%m/%Y"),
        (("13/02/2024", "03/04/2024"), "%d/%m/%Y", None),
        (("31.12.2024 23:59",), "%d.%m.%Y %H:%M", None),
        (("Jan 3, 2024",), "%b %d, %Y", None),
        (("5 March 2024", "17 June 2024"), "%d %B %Y", None),
        (tuple(f"202401{day:02}" for day in range(10, 30)), "%Y%m%d", None),
    ],
)
def test_dates_are_found_in_their_form(
    texts: tuple[str, ...], form: str, other: str | None
) -> None:
    found = dates.find([(text, 1) for text in texts])
    assert found == dates.Found(share=1, form=form, other=other)


def test_parts_of_a_date() -> None:
    parts = dates.parts(["2024-01-31 06:30", None, "nonsense", "1970-01-02T01:00+02:00"], "iso")
    np.testing.assert_array_equal(parts[0], [2024, 1, 31, 2, 19753, 6.5])
    assert np.isnan(parts[1:3]).all()
    np.testing.assert_array_equal(parts[3], [1970, 1, 1, 3, 0, 23])
    for texts in (("1.5", "3.25"), ("abc",), ("1.2.3",), ("20240131",)):
        found = dates.find([(text, 1) for text in texts])
        assert found is None or not found.share
