import numpy as np
import pytest

from raydae.core.random_numbers import ORDER, SAMPLE, Generators, generator

# Random123's known answers for philox4x64-10: counter, key, result.
KNOWN = (
    ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        [0xFFFFFFFFFFFFFFFF] * 4,
        [0xFFFFFFFFFFFFFFFF] * 2,
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
)


@pytest.mark.parametrize(("counter", "key", "known"), KNOWN)
def test_numpys_generator_is_random123s(counter: list[int], key: list[int], known: str) -> None:
    # numpy increments the counter before it draws.
    value = (sum(word << (64 * place) for place, word in enumerate(counter)) - 1) % 2**256
    words = np.random.Philox(key=np.array(key, np.uint64), counter=value).random_raw(4)
    assert " ".join(f"{word:016x}" for word in words) == known


def test_a_number_s_generator_depends_on_nothing_before_it() -> None:
    generators = Generators(7, SAMPLE)
    generators[3].random(5)
    again = generators[2**40].random(5)
    np.testing.assert_array_equal(again, generator(7, SAMPLE, 2**40).random(5))
    np.testing.assert_array_equal(again, generators[2**40].random(5))


def test_seeds_purposes_and_numbers_share_nothing() -> None:
    drawn = {
        generator(seed, purpose, number).bit_generator.random_raw(4).tobytes()
        for seed in (0, 1, 2**32 - 1)
        for purpose in (ORDER, SAMPLE)
        for number in (0, 1, 2**63)
    }
    assert len(drawn) == 18
