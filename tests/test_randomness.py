import numpy as np
import pytest

from fkd.randomness import Purpose, generator, permutations, philox, stream_key, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    """Vectors of the Random123 distribution: any implementation of the format can check itself."""
    out = philox(np.array([counter], dtype=np.uint32), np.array([key], dtype=np.uint32))
    assert out[0].tolist() == expected


def test_a_stream_is_named_by_seed_and_key():
    """Golden values: a change of any of them would silently move every crop of every store."""
    assert stream_key(0, b"cat/1.jpg") == 0xABA8CF7935074B3F
    draws = uniforms(stream_key(0, b"cat/1.jpg"), Purpose.CROP, 3, 3)
    assert draws.tolist() == [0.9763118703849614, 0.792578263906762, 0.6650699367746711]
    streams = {stream_key(s, k) for s in (0, 1) for k in (b"", b"a", b"a/b")}
    assert len(streams) == 6


def test_draws_do_not_depend_on_what_is_drawn_beside_them():
    streams = np.array([stream_key(0, b"a"), stream_key(0, b"b")], dtype=np.uint64)
    together = uniforms(streams[:, None], Purpose.CROP, np.arange(5), 9)
    assert together.shape == (2, 5, 9)
    for i, stream in enumerate(streams):
        for number in range(5):
            alone = uniforms(stream, Purpose.CROP, number, 9)
            np.testing.assert_array_equal(together[i, number], alone)
    np.testing.assert_array_equal(uniforms(streams, Purpose.CROP, 0, 3), together[:, 0, :3])


def test_purposes_and_large_numbers_are_independent():
    draws = [uniforms(1, purpose, n, 4).tolist() for purpose in Purpose for n in (0, 1, 2**32)]
    assert len({tuple(d) for d in draws}) == len(draws)


def test_uniforms_are_uniform():
    draws = uniforms(7, Purpose.CROP, np.arange(20_000), 4)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi2 = ((counts - 4000) ** 2 / 4000).sum()
    assert chi2 < 43.8  # 99.9 % of a chi-square with 19 degrees of freedom
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.04


def test_permutations_hold_every_number_once_and_every_order_is_as_likely():
    orders = permutations(np.arange(6000, dtype=np.uint64), Purpose.VIEW_ORDER, 0, 3)
    assert (np.sort(orders, axis=1) == np.arange(3)).all()
    counts = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 120


def test_a_generator_is_named_by_its_address():
    assert generator(1, Purpose.MIX, 5).random() == generator(1, Purpose.MIX, 5).random()
    assert generator(1, Purpose.MIX, 5).random() != generator(1, Purpose.MIX, 6).random()
    assert generator(1, Purpose.MIX, 5).random() != generator(2, Purpose.MIX, 5).random()
