"""Evidence that is held out, for choices without labels: groups of normal pictures that look alike stand for what a
detector has not met.

Generated anomalies are drawn on normals. Where both come from pictures that the detector knows, anything but the defect
cancels out, and a detector to which every new picture is odd looks as good as any. So the pictures of a group, and the
anomalies made from them, are judged by what was learnt from the other groups, and all groups on one scale."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kka.metrics import Comparison, auroc, compare_scores

_SAMPLES, _LEVEL = 500, 0.95  # of the bootstrap


@dataclass(frozen=True)
class Groups:
    """The centres (k, c) of groups of pictures, in deviations `scale` (c,) of their vectors."""

    centres: Tensor
    scale: Tensor

    def of(self, vectors: Tensor) -> Tensor:
        """The group of each picture by its vector (n, c), shape (n,)."""
        return torch.cdist(vectors / self.scale, self.centres).argmin(1)


def grouped(vectors: Tensor, groups: int, seed: int) -> Groups:
    """At most `groups` of pictures, by k-means of their vectors (n, c)."""
    from sklearn.cluster import KMeans

    scale = vectors.std(0, unbiased=False).clamp_min(1e-6)
    k = max(1, min(groups, len(vectors) // 2))
    means = KMeans(k, n_init=4, random_state=seed % 2**32).fit((vectors / scale).double().numpy())
    return Groups(torch.from_numpy(means.cluster_centers_).to(vectors.dtype), scale)


@dataclass(frozen=True)
class Judged:
    """Held-out scores of normals and of anomalies."""

    normals: NDArray[np.float64]
    anomalies: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        return np.concatenate([self.normals, self.anomalies])

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.repeat([0, 1], [len(self.normals), len(self.anomalies)])

    @property
    def auroc(self) -> float:
        return auroc(self.scores, self.labels)

    def compared(self, other: "Judged", seed: int) -> Comparison:
        """How much better this tells anomalies from normals than the `other` does on the same pictures."""
        return compare_scores(auroc, self.scores, other.scores, self.labels, samples=_SAMPLES, level=_LEVEL, seed=seed)
