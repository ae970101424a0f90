"""What every detector stands on: checked hyperparameters and pictures, a fitted network, a folder of safetensors and
json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from kka import registry
from kka.detectors.shared import state
from kka.detectors.shared.networks import seeded
from kka.errors import KkaError
from kka.log import Log, silent
from kka.records import Changes, Images

Whole = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Pictures(NamedTuple):
    """What a fit is given, uint8 (n, 3, h, w); n is 0 where there are none. `sources` and `masks` (n, h, w), of the
    anomalies, are None where nobody knows what those were made from."""

    normals: Tensor
    anomalies: Tensor
    generated: Tensor
    sources: Tensor | None = None
    masks: Tensor | None = None

    @property
    def inside(self) -> Tensor:
        """All that is normal, real and generated."""
        return torch.cat([self.normals, self.generated])


@dataclass
class Base:
    """A detector's file derives `Detector` from this, a dataclass of hyperparameters, and says how it learns and what
    it is.

    `learn` fits and returns a network, `network` builds an unfitted one for `load` to fill; `scorer` turns it into a
    module from pictures to scores. A detector that stands on nothing but the contract of `kka.detectors.Detector` is as
    good as one of these."""

    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        self.name = type(self).__module__.rpartition(".")[2]
        self.network_: nn.Module | None = None
        self.size_: tuple[int, int] | None = None
        registry.check_types(f"the detector '{self.name}'", dataclasses.asdict(self), type(self))

    def learn(self, pictures: Pictures, log: Log) -> nn.Module:
        """The fitted network. Torch's global generator is seeded for it."""
        raise NotImplementedError

    def network(self, size: tuple[int, int]) -> nn.Module:
        """An unfitted network for pictures of (h, w) pixels."""
        raise NotImplementedError

    def scorer(self) -> nn.Module:
        """The fitted module from float pictures (b, 3, h, w) in 0 to 1 to scores (b,); plain enough for
        torch.export."""
        if self.network_ is None:
            raise KkaError(f"{self.name} wants a fitted detector, got one that is not. Call fit or load first.")
        return self.network_

    def fit(
        self,
        normals: Images,
        anomalies: Images | None = None,
        *,
        generated_normals: Images | None = None,
        changes: Changes | None = None,
        log: Log = silent,
    ) -> Self:
        """Learns from uint8 (n, h, w, 3); generated normals are normals. Logs under the detector's name."""
        state.check_fit(self.name, normals, anomalies, generated_normals, changes)
        given = [
            state.channels_first(normals[:0] if images is None else images)
            for images in (normals, anomalies, generated_normals)
        ]
        with seeded(self.name, self.seed):
            self.network_ = self.learn(Pictures(*given, *_changes(changes)), log).eval()
        self.size_ = (normals.shape[1], normals.shape[2])
        return self

    def score(self, images: Images) -> NDArray[np.float64]:
        """One score a picture of uint8 (n, h, w, 3), shape (n,): higher is more anomalous."""
        state.check_score(self.name, images, self.size_)
        return state.batched(images, self.scorer()).double().numpy()

    def save(self, folder: Path) -> None:
        """Writes the folder whole or not at all."""
        state.save(folder, self.name, self, self.size_, self.network_.state_dict() if self.network_ else {})

    @classmethod
    def load(cls, folder: Path, **options: Any) -> Self:
        """The detector that `save` wrote, with `options` in place of its own. Raises KkaError where the folder is
        broken."""
        facts = state.facts(folder)
        detector = cls(**facts["options"] | options)
        detector.size_ = (facts["size"][0], facts["size"][1])
        detector.network_ = detector.network(detector.size_)
        state.restore(folder, detector.network_, state.weights(folder))
        return detector


def _changes(changes: Changes | None) -> tuple[Tensor, ...]:
    return () if changes is None else (state.channels_first(changes.sources), torch.from_numpy(changes.masks))


def pick(images: Tensor, n: int) -> Tensor:
    """`n` of the pictures at random, with replacement, as floats in 0 to 1; none of none."""
    return state.floats(draw(images, n))


def draw(rows: Tensor, n: int) -> Tensor:
    """`n` of the rows at random, with replacement; none of none."""
    return rows[(torch.rand(n if len(rows) else 0) * len(rows)).long()]
