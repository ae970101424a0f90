"""SimpleNet (Liu et al. 2023): a linear adaptor and a small discriminator on frozen patches, taught by Gaussian noise
on features.

Normal patches are to score below -margin, the same patches with noise above it (truncated L1). Generated anomalies add
a third term: of each picture the `top_share` of patches that score highest are to score above the margin. The mean over
all patches is one patch more, for small pictures whose anomaly lies in the whole. Where it is known what an anomaly was
made from, all of its patches that changed are to score above the margin instead, and no others."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kka.detectors.shared.base import Amount, Pictures, Whole, draw
from kka.detectors.shared.changes import changed_patches, usual_distance
from kka.detectors.shared.features import PatchHead, Patchwise, spread
from kka.detectors.shared.networks import autocast
from kka.log import Log


class Discriminator(PatchHead):
    """Patches, each channel in deviations of the normals', -> adaptor -> scores."""

    mean: Tensor
    std: Tensor

    def __init__(self, fingerprint: Tensor, top_share: float, mean: Tensor, std: Tensor, hidden: int) -> None:
        super().__init__(fingerprint, top_share)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        width = len(mean)
        self.adaptor = nn.Linear(width, width)
        self.body = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1, bias=False)
        )

    def adapted(self, rows: Tensor) -> Tensor:
        """Rows (n, c) -> (n, c)."""
        made: Tensor = self.adaptor((rows - self.mean) / self.std)
        return made

    def patches(self, features: Tensor) -> Tensor:
        b, _, h, w = features.shape
        scores: Tensor = self.body(self.adapted(features.permute(0, 2, 3, 1).flatten(0, 2)))
        return scores.view(b, h, w)

    def pooled(self, features: Tensor, patches: Tensor) -> Tensor:
        whole = self.body(self.adapted(features.mean((2, 3))))
        return self.top(torch.cat([patches.flatten(1), whole], 1))


@dataclass
class Detector(Patchwise):
    """`noise` is the deviation of the noise on adapted features, which begin with one of about 0.58 (a linear layer of
    torch's)."""

    steps: Whole = 400
    batch_size: Annotated[int, Field(ge=2)] = 8
    hidden: Whole = 128
    noise: Amount = 1.0
    margin: Amount = 0.5
    learning_rate: Amount = 1e-3
    weight_decay: Amount = 1e-5

    def network(self, size: tuple[int, int]) -> Discriminator:
        width = self.width(size)
        return Discriminator(self._fingerprint(), self.top_share, torch.zeros(width), torch.ones(width), self.hidden)

    def learn(self, pictures: Pictures, log: Log) -> Discriminator:
        """Logs `simplenet/loss` every ten steps."""
        inside = self._with_mean(self.rows(pictures.inside))
        every = inside.flatten(0, 1)
        outside, counts = self._outside(pictures, every)
        if counts is not None:
            log("simplenet/changed_patches", int(counts.sum()), 0)
        network = Discriminator(self._fingerprint(), self.top_share, every.mean(0), spread(every), self.hidden)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        for step in range(self.steps):
            normal, chosen = draw(inside, self.batch_size), draw(torch.arange(len(outside)), self.batch_size)
            with autocast():
                loss = self._loss(network, normal, outside[chosen], None if counts is None else counts[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                log("simplenet/loss", loss.item(), step)
        return network

    def _outside(self, pictures: Pictures, inside: Tensor) -> tuple[Tensor, Tensor | None]:
        """Patches (n, p, c) of the anomalies, and which count (n, p), None where that is not known; no pictures without
        one that does. `inside` are normal patches (m, c)."""
        if pictures.sources is None:
            return self._with_mean(self.rows(pictures.anomalies)), None
        std = spread(inside)
        patches, counts = changed_patches(self, pictures, std, usual_distance(inside / std, self.usual_share))
        some = counts.any(1)
        return patches[some], counts[some]

    @staticmethod
    def _with_mean(rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.mean(1, keepdim=True)], 1)

    def _loss(self, network: Discriminator, inside: Tensor, outside: Tensor, counts: Tensor | None = None) -> Tensor:
        """Of normals' and anomalies' patches, (b, p, c) each; there may be no anomalies. `counts` (b, p) are those of
        the anomalies' that are known to be anomalous."""
        normal = network.adapted(inside.flatten(0, 1))
        noisy = normal + torch.randn_like(normal) * self.noise
        others = network.adapted(outside.flatten(0, 1) if counts is None else outside[counts])
        scores = network.body(torch.cat([normal, noisy, others])).squeeze(1).float()
        low, high, anomalous = scores.split([len(normal), len(noisy), len(others)])
        loss = F.relu(self.margin + low).mean() + F.relu(self.margin - high).mean()
        if len(outside):
            told = network.highest(anomalous.view(outside.shape[:2])) if counts is None else anomalous
            loss = loss + F.relu(self.margin - told).mean()
        return loss
