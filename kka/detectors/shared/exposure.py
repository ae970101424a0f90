"""Outlier exposure (Hendrycks et al. 2019): an ensemble of small networks, each batch half normal and half not.

Without generated anomalies the other half are CutPaste-like random anomalies, made anew for every batch; with them it
keeps a share of those, for generated anomalies do not cover everything."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kka.detectors.shared import augment
from kka.detectors.shared.base import Amount, Base, Pictures, Share, Whole, pick
from kka.detectors.shared.networks import autocast, seeded
from kka.log import Log


class Ensemble(nn.Module):
    """The mean score of the members."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


@dataclass
class Exposure(Base):
    """`steps` of `batch_size` pictures for each of the `members`; `width` is the channels of the first of three levels.

    `cutpaste_share` of the anomalous half stay CutPaste-like when generated anomalies are given, `generated_share` of
    the normal half are generated normals when those are given. `degrade` is the strength of random blur and noise on
    all."""

    members: Whole = 3
    steps: Whole = 250
    batch_size: Annotated[int, Field(ge=2)] = 64
    width: Whole = 16
    learning_rate: Amount = 4e-3
    weight_decay: Amount = 0.01
    cutpaste_share: Share = 0.3
    generated_share: Share = 0.15
    degrade: Amount = 0.0

    def member(self) -> nn.Module:
        """An unfitted network, float pictures (b, 3, h, w) in 0 to 1 -> scores (b,)."""
        raise NotImplementedError

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Of scores (b,) and labels (b,), 1 for anomalies."""
        raise NotImplementedError

    def network(self, size: tuple[int, int]) -> Ensemble:
        return Ensemble([self.member() for _ in range(self.members)])

    def learn(self, pictures: Pictures, log: Log) -> Ensemble:
        """Each member learns from its own order of pictures. Logs `NAME/loss` every ten steps."""
        members = []
        for i in range(self.members):
            with seeded(self.name, self.seed, i):
                members.append(self._train(self.member(), pictures, i * self.steps, log))
        return Ensemble(members)

    def _train(self, network: nn.Module, pictures: Pictures, logged: int, log: Log) -> nn.Module:
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        half = self.batch_size // 2
        labels = torch.cat([torch.zeros(half), torch.ones(half)])
        for step in range(self.steps):
            x = self._batch(pictures, half)
            with autocast():
                scores = network(x)
            loss = self.loss(scores.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                log(f"{self.name}/loss", loss.item(), logged + step)
        return network

    def _batch(self, pictures: Pictures, half: int) -> Tensor:
        """`half` normals, then `half` anomalies, all varied alike."""
        normals, anomalies, generated = pictures[:3]
        made = round(half * self.generated_share) if len(generated) else 0
        random = round(half * self.cutpaste_share) if len(anomalies) else half
        pasted = augment.cut_paste(pick(normals, random)) if random else pick(normals, 0)
        parts = [pick(normals, half - made), pick(generated, made), pasted, pick(anomalies, half - random)]
        return augment.vary(torch.cat(parts), self.degrade)
