import hashlib
import math

import pytest

from raydae.core.pixel_hashes import PixelHashes

SHAS = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(1000)]


def test_a_set_holds_what_it_was_made_of_in_any_order_and_nothing_else() -> None:
    known = PixelHashes.of(SHAS[:500])
    assert [sha in known for sha in SHAS] == [True] * 500 + [False] * 500
    assert known == PixelHashes.of([*SHAS[499::-1], *SHAS[:3]])
    assert hash(known) == hash(PixelHashes.of(SHAS[499::-1]))
    assert known != PixelHashes.of(SHAS[:499])
    assert SHAS[0] not in PixelHashes.of([])


def test_a_union_holds_both() -> None:
    both = PixelHashes.of(SHAS[:300]) | PixelHashes.of(SHAS[200:500])
    assert both == PixelHashes.of(SHAS[:500])
    assert len(both) == 500


def test_the_text_is_small_and_comes_back() -> None:
    for n in (0, 1, 2, 1000):
        known = PixelHashes.of(SHAS[:n])
        assert PixelHashes.from_text(known.text) == known
        assert len(known.text) == 4 * math.ceil(8 * n / 3)


@pytest.mark.parametrize("bad", [["xy" * 16], ["00"], [SHAS[0], SHAS[1][:15] + "g"], [SHAS[0], ""]])
def test_what_is_no_hash_is_refused(bad: list[str]) -> None:
    with pytest.raises(ValueError, match=r"hash|fromhex"):
        PixelHashes.of(bad)


@pytest.mark.parametrize("bad", ["AAAA", "*", "AAAAAAAAAAA", "é"])
def test_what_is_no_text_of_a_set_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        PixelHashes.from_text(bad)
