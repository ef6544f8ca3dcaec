import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fkd.store import bits
from fkd.store.bits import take_numbers, to_bits, to_bytes, widths_of

tables = st.lists(st.integers(0, 32), min_size=1, max_size=6).flatmap(
    lambda widths: st.lists(
        st.tuples(*[st.integers(0, 2**width - 1) for width in widths]), min_size=1, max_size=9
    )
)


def read_naively(data: bytes, place: int, width: int) -> int:
    """Bit by bit, the lowest first."""
    found = [data[bit // 8] >> bit % 8 & 1 for bit in range(place, place + width)]
    return sum(bit << i for i, bit in enumerate(found))


@given(tables)
def test_packed_numbers_are_where_their_widths_say(table):
    numbers = np.array(table, np.int64)
    widths = widths_of(numbers)
    data = to_bytes(to_bits(numbers, widths))
    assert len(data) == -(-len(table) * widths.sum() // 8)
    place = 0
    for row in table:
        for number, width in zip(row, widths.tolist(), strict=True):
            assert read_naively(data, place, width) == number
            place += width


@given(tables)
def test_any_number_is_read_without_the_others(table):
    numbers = np.array(table, np.int64)
    widths = widths_of(numbers)
    data = np.frombuffer(to_bytes(to_bits(numbers, widths)) or b"\0", np.uint8)
    places = np.arange(len(table))[:, None] * widths.sum() + np.cumsum(widths) - widths
    order = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(take_numbers(data, places[order], widths), numbers[order])


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 255, 256, 2**31, 2**32 - 1])
def test_a_width_is_what_the_number_needs(number):
    assert widths_of(np.array([[number], [0]])) == [number.bit_length()]


def test_wide_rows_are_packed_in_steps(monkeypatch):
    numbers = np.arange(600).reshape(40, 15)
    widths = widths_of(numbers)
    whole = to_bits(numbers, widths)
    monkeypatch.setattr(bits, "_BITS_AT_ONCE", 300)
    np.testing.assert_array_equal(to_bits(numbers, widths), whole)


def test_places_beyond_the_end_read_as_anything_but_do_not_fail():
    data = np.array([7], np.uint8)
    assert take_numbers(data, np.array([10**15]), np.array([32])).shape == (1,)
