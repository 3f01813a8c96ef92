import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from moto_pl.ops import extension
from moto_pl.ops.philox import Key, Stream, integers, normal, philox, philox_ref, uniform, uniform_ref

Words = tuple[int, int, int, int]
ONES = 0xFFFFFFFF
# Known-answer vectors of Random123 for Philox4x32-10: counter, key, result.
KNOWN: list[tuple[Words, tuple[int, int], Words]] = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def block(counter: Words, key: tuple[int, int]) -> Words:
    """One block in Python's integers, which do not overflow."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & ONES, (a >> 32) ^ c3 ^ k1, a & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter: Words, key: tuple[int, int], answer: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    assert block(counter, key) == answer  # the tests' own reference
    # The counter is (block, stream, offset low, offset high): block numbers this high are reached only by a trick.
    monkeypatch.setattr(torch, "arange", lambda _, **kwargs: torch.tensor([counter[0]], **kwargs))
    found = philox_ref(Key(key[1] << 32 | key[0], counter[3] << 32 | counter[2]), counter[1], 4)
    assert tuple(found.tolist()) == answer


compiled = pytest.mark.skipif(not extension.available(), reason=extension.status())
FORMS = [philox_ref, pytest.param(philox, marks=compiled)]


@pytest.mark.parametrize("draw", FORMS)
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**64 - 1, 0x123456789ABCDEF0])
@pytest.mark.parametrize("offset", [0, 7, 2**40 + 5, 2**63 - 1])
def test_words_are_those_of_the_blocks(draw: Callable[..., torch.Tensor], seed: int, offset: int) -> None:
    key = seed & ONES, seed >> 32
    words = [w for i in range(5) for w in block((i, 3, offset & ONES, offset >> 32), key)]
    for count in (0, 1, 3, 4, 17):
        found = draw(Key(seed, offset), 3, count)
        assert found.dtype == torch.int64 and found.tolist() == words[:count]


def test_uniform_values_shapes_and_dtypes() -> None:
    key = Key(5, 9)
    found = uniform(key, Stream.ACTION, (3, 5, 2))
    assert found.shape == (3, 5, 2) and found.dtype == torch.float32
    words = philox(key, Stream.ACTION, 30).numpy()
    np.testing.assert_array_equal(found.double().numpy().ravel(), (2 * (words >> 9) + 1) / 2**24)
    wide = uniform(key, Stream.ACTION, (3, 5, 2), dtype=torch.float64)
    assert wide.dtype == torch.float64 and torch.equal(wide, found.double())
    assert uniform(key, 0, ()).shape == () and uniform(key, 0, (0, 4)).shape == (0, 4)


def test_extreme_words_stay_inside_the_open_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.ops.philox._compiled", lambda *_: None)
    monkeypatch.setattr("moto_pl.ops.philox.philox_ref", lambda *_: torch.tensor([0, ONES]))
    low, high = uniform(Key(0, 0), 0, (2,)).tolist()
    assert (low, high) == (2.0**-24, 1 - 2.0**-24)
    assert normal(Key(0, 0), 0, (2,)).isfinite().all()
    assert integers(Key(0, 0), 0, 7, (2,)).tolist() == [0, 6]


@compiled
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (123, 45), (3, 20_001)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_draws_have_the_references_bits(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Key(2**63 + 5, 2**62 + 7)

    def draws() -> list[torch.Tensor]:
        return [
            uniform(key, Stream.NOISE, shape, dtype=dtype),
            normal(key, Stream.NOISE, shape, dtype=dtype),
            integers(key, Stream.NOISE, 1000, shape),
        ]

    found = draws()
    assert torch.equal(found[0], uniform_ref(key, Stream.NOISE, shape, dtype=dtype))
    calls = []
    monkeypatch.setattr("moto_pl.ops.philox._compiled", lambda *_: calls.append(0))
    assert all(torch.equal(one, other) for one, other in zip(found, draws(), strict=True))
    assert len(calls) == 3


@compiled
def test_bits_do_not_depend_on_threads() -> None:
    before = torch.get_num_threads()
    try:
        draws = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            draws.append(uniform(Key(1, 2), 3, (100_003,)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])


@compiled
def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.moto.philox.default, (torch.empty(0), 1, 2, None, 3, 10))


def test_uniformity() -> None:
    draws = uniform(Key(1, 2), Stream.LATENT, (100_000,)).double().numpy()
    counts = np.histogram(draws, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    # Neighbours: lanes of a block, and blocks.
    for lag in (1, 4):
        pairs = np.histogram2d(draws[:-lag], draws[lag:], bins=16, range=[(0, 1)] * 2)[0]
        assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


def test_normal_distribution() -> None:
    draws = normal(Key(1, 2), Stream.LATENT, (50_000,))
    assert draws.dtype == torch.float32
    assert stats.kstest(draws.numpy(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(
        draws.numpy(), stats.norm.ppf(uniform(Key(1, 2), 0, (50_000,)).double().numpy()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers(high: int) -> None:
    draws = integers(Key(4, 4), Stream.MEMBER, high, (60, 500))
    assert draws.dtype == torch.int64 and draws.shape == (60, 500)
    assert draws.min() >= 0 and draws.max() < high
    assert high == 1 or stats.chisquare(np.bincount(draws.numpy().ravel(), minlength=high)).pvalue > 1e-3


def test_seeds_offsets_and_streams_are_independent() -> None:
    keys = [(Key(seed, offset), stream) for seed in (0, 1, 2**32) for offset in (0, 1, 2**32) for stream in (0, 1, 5)]
    draws = np.stack([uniform(key, stream, (4000,)).double().numpy() for key, stream in keys])
    correlation = np.corrcoef(draws)[~np.eye(len(keys), dtype=bool)]
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)
    again = uniform(*keys[3], (4000,)).double().numpy()
    np.testing.assert_array_equal(again, draws[3])


def test_fold_separates() -> None:
    data = [(i,) for i in range(50)] + [(i, j) for i in range(20) for j in range(20)] + [(-1,), (2**63,), ()]
    offsets = [Key(3, step).fold(*values).offset for step in range(20) for values in data]
    assert len(set(offsets)) == len(offsets)
    assert all(0 <= offset < 2**63 for offset in offsets)
    assert Key(3, 1).fold(2) == Key(3, 1).fold(2) and Key(3, 1).fold(2).seed == 3
    assert Key(3, 1).fold(1, 2) != Key(3, 1).fold(2, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_on_a_gpu_are_the_cpus(dtype: torch.dtype) -> None:
    for key in (Key(3, 7), Key(2**64 - 1, 2**63 + 5)):
        for count in (1, 5, 1027):
            assert philox(key, Stream.ROWS, count, "cuda").cpu().equal(philox_ref(key, Stream.ROWS, count))
            found = uniform(key, Stream.ROWS, (count,), "cuda", dtype)
            assert found.cpu().equal(uniform_ref(key, Stream.ROWS, (count,), dtype=dtype))
