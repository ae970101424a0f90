"""Outlier exposure by binary cross entropy: an ensemble of small convolution networks, the steadier detector and evaluator.

Half of every batch is normal, half is not. Without generated anomalies the other half are CutPaste-like random anomalies,
made anew for every batch; with them it keeps a share of those, for generated anomalies do not cover everything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kka.detectors import _augment, _state
from kka.detectors._networks import ConvNet, autocast, seeded
from kka.log import Log, silent

Sources = list[Tensor]  # normals, anomalies, generated normals: float (n, 3, h, w), n is 0 where there are none
_NAME = "bce"


@dataclass
class Detector:
    """`steps` of `batch_size` pictures for each of the `members`; `width` is the channels of the first of three levels.

    `cutpaste_share` of the anomalous half stay CutPaste-like when generated anomalies are given, `generated_share` of the
    normal half are generated normals when those are given. `degrade` is the strength of random blur and noise on all.
    """

    seed: int = 0
    members: int = 3
    steps: int = 250
    batch_size: int = 64
    width: int = 16
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    cutpaste_share: float = 0.3
    generated_share: float = 0.15
    degrade: float = 0.0

    def __post_init__(self) -> None:
        _state.check_options(_NAME, self)
        self.networks_: list[ConvNet] = []
        self.size_: tuple[int, int] | None = None

    def fit(
        self,
        normals: _state.Images,
        anomalies: _state.Images | None = None,
        *,
        generated_normals: _state.Images | None = None,
        log: Log = silent,
    ) -> Self:
        """Learns from uint8 (n, h, w, 3); each member from its own order of pictures. Logs `bce/loss` every ten steps."""
        _state.check_fit(_NAME, normals, anomalies, generated_normals)
        sources = [_state.tensor(normals[:0] if images is None else images) for images in (normals, anomalies, generated_normals)]
        self.networks_ = []
        for member in range(self.members):
            with seeded(_NAME, self.seed, member):
                self.networks_.append(self._train(sources, member * self.steps, log))
        self.size_ = (normals.shape[1], normals.shape[2])
        return self

    def score(self, images: _state.Images) -> NDArray[np.float64]:
        """The mean logit over the members, shape (n,): higher is more anomalous, and it does not saturate."""
        _state.check_score(_NAME, images, self.size_)
        return _state.score(images, lambda x: torch.stack([network(x) for network in self.networks_]).mean(0))

    def save(self, folder: Path) -> None:
        """Writes the folder whole or not at all."""
        tensors = {f"{i}.{k}": v for i, network in enumerate(self.networks_) for k, v in network.state_dict().items()}
        _state.save(folder, _NAME, self, self.size_, tensors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The detector that `save` wrote. Raises KkaError where the folder is broken."""
        facts, tensors = _state.facts(folder), _state.weights(folder)
        detector = cls(**facts["options"])
        for i in range(detector.members):
            network = ConvNet(detector.width)
            _state.restore(folder, network, {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")})
            detector.networks_.append(network)
        detector.size_ = (facts["size"][0], facts["size"][1])
        return detector

    def _train(self, sources: Sources, logged: int, log: Log) -> ConvNet:
        network = ConvNet(self.width)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        half = self.batch_size // 2
        labels = torch.cat([torch.zeros(half), torch.ones(half)])
        for step in range(self.steps):
            x = self._batch(sources, half)
            with autocast():
                logits = network(x)
            loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                log("bce/loss", loss.item(), logged + step)
        return network.eval()

    def _batch(self, sources: Sources, half: int) -> Tensor:
        """`half` normals, then `half` anomalies, all varied alike."""
        normals, anomalies, generated = sources
        made = round(half * self.generated_share) if len(generated) else 0
        random = round(half * self.cutpaste_share) if len(anomalies) else half
        pasted = _augment.cut_paste(_pick(normals, random))
        parts = [_pick(normals, half - made), _pick(generated, made), pasted, _pick(anomalies, half - random)]
        return _augment.vary(torch.cat(parts), self.degrade)


def _pick(images: Tensor, n: int) -> Tensor:
    """`n` pictures at random, with replacement; none of none."""
    return images[(torch.rand(n) * len(images)).long()]
