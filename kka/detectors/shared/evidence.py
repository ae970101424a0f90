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


def grouped(vectors: Tensor, groups: int, seed: int) -> Tensor:
    """At most `groups` groups of pictures by their vectors (n, c), each channel in its deviations: k-means, (n,)."""
    from sklearn.cluster import KMeans

    scaled = vectors / vectors.std(0, unbiased=False).clamp_min(1e-6)
    means = KMeans(max(1, min(groups, len(vectors) // 2)), n_init=4, random_state=seed % 2**32)
    return torch.from_numpy(means.fit_predict(scaled.double().numpy())).long()


def groups_of(sources: Tensor, normals: Tensor, groups: Tensor) -> Tensor:
    """The groups (n,) of the normals (m, 3, h, w) that the sources (n, 3, h, w) are; of one that is none of them, any
    by its turn."""
    known = {hash(picture.numpy().tobytes()): int(group) for picture, group in zip(normals, groups, strict=True)}
    every = groups.unique().tolist()
    return torch.tensor(
        [known.get(hash(picture.numpy().tobytes()), every[i % len(every)]) for i, picture in enumerate(sources)]
    )


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
