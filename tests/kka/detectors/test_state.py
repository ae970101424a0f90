"""Pictures in batches of a few sizes."""

import numpy as np
import pytest
import torch

from kka.detectors.shared import state


@pytest.mark.parametrize(
    ("n", "side", "size"),
    [(1, 32, 1), (2, 32, 8), (8, 32, 8), (9, 32, 64), (64, 64, 64), (1000, 64, 64), (1, 256, 1), (3, 256, 4)]
    + [(1000, 66, 30), (1000, 128, 8), (1000, 256, 4), (1000, 512, 4)],
)
def test_batches_are_small_for_few_and_for_large_pictures(n: int, side: int, size: int) -> None:
    assert state.batch_size(n, side, side) == size


@pytest.mark.parametrize(
    ("n", "batches"), [(1, [1]), (2, [8]), (8, [8]), (9, [64]), (64, [64]), (65, [64, 64]), (130, [64, 64, 64])]
)
def test_all_batches_of_a_call_have_one_size_and_rows_keep_their_order(n: int, batches: list[int]) -> None:
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    seen: list[int] = []

    def both(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(batch))
        return batch.mean((1, 2, 3)) * 255, batch[:, 0]

    means, firsts = state.batched_all(images, both)
    assert seen == batches and means.shape == (n,) and firsts.shape == (n, 2, 2)
    np.testing.assert_allclose(means, np.arange(n), rtol=1e-5)
    np.testing.assert_array_equal(state.batched(images, lambda batch: both(batch)[0]), means)


def test_what_fills_a_batch_up_is_a_picture_of_the_call() -> None:
    """Zeros would do as well for most networks, but not for one that divides by what it sees."""
    images = np.full((3, 2, 2, 3), 7, np.uint8)
    seen: list[torch.Tensor] = []
    state.batched(images, lambda batch: seen.append(batch) or batch.mean((1, 2, 3)))  # type: ignore[func-returns-value]
    assert torch.equal(seen[0], torch.full((8, 3, 2, 2), 7 / 255))
