"""Which mistakes are the own fault of a run's parameters: a study gives such a run up, and goes on."""

import numpy as np
import pytest
import torch

from kka import metrics
from kka.confusion import judge
from kka.errors import Collapse, out_of_memory
from kka.preferences import preference_pairs, surrogate
from kka.records import Anomaly

IMAGES = np.zeros((2, 16, 16, 3), np.uint8)


class Diverged:
    """A detector whose training has lost itself."""

    def score(self, images: np.ndarray) -> np.ndarray:
        return np.array([0.0, np.nan])


def test_a_detector_that_has_diverged_is_a_collapse() -> None:
    with pytest.raises(Collapse, match="^assess: wanted finite scores, got NaN or infinite ones"):
        judge(Diverged(), IMAGES, IMAGES, quantile=0.95, easy_share=1.0)  # type: ignore[arg-type]
    with pytest.raises(Collapse, match="finite scores, got 1 NaN"):
        metrics.auroc([0.0, np.nan], [0, 1])


def test_descriptions_that_give_no_preferences_are_a_collapse() -> None:
    shares = {"chosen_share": 0.1, "rejected_share": 0.5, "refused_share": 0.0, "validation_share": 0.0}
    with pytest.raises(Collapse, match="preference pairs want .* got 2 graded ones"):
        preference_pairs(["one", "two"], np.array([0.0, 1.0]), [], count=4, rng=np.random.default_rng(0), **shares)
    rated = [Anomaly("0", "r1", 0, "!", 1.0, 1.0, "hard", "0" * 64)]
    with pytest.raises(Collapse, match="the surrogate wants rated descriptions with words"):
        surrogate(rated, ["x"], lambda texts: np.zeros(len(texts)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("Unable to allocate 7 GiB"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
