"""Deep SAD (Ruff et al. 2020): normals are drawn to a centre in feature space, anomalies pushed away from it.

The published form: a LeNet without bias terms, pretrained as the encoder of an autoencoder, the centre the mean of the
normals' features, the score the squared distance to it. Without anomalies it is one-class Deep SVDD (Ruff et al. 2018).
Unlike the reference's, batches are half anomalies when there are any, so that a few dozen of them count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kka.detectors.shared.base import Amount, Base, Pictures, Share, Whole, pick
from kka.detectors.shared.networks import LeNet, LeNetDecoder, autocast
from kka.detectors.shared.state import batched
from kka.log import Log

_EPS = 1e-6  # keeps the inverse distance finite


class Sphere(nn.Module):
    """Pictures (b, 3, h, w) -> squared distance of their features from the centre, shape (b,)."""

    centre: Tensor

    def __init__(self, rep_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.features = LeNet(rep_dim, size)
        self.register_buffer("centre", torch.zeros(rep_dim))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x)
        return (features.float() - self.centre).square().sum(1)


@dataclass
class Detector(Base):
    """`eta` weighs the anomalies' inverse distance; learning rates fall to a tenth after `milestone` of the steps.

    No coordinate of the centre is nearer to 0 than `centre_eps`, for a network without bias could reach 0 by zero
    weights."""

    rep_dim: Whole = 128
    pretrain_steps: Whole = 200
    steps: Whole = 700
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Amount = 1e-4
    milestone: Share = 0.85
    weight_decay: Amount = 0.5e-6
    pretrain_weight_decay: Amount = 0.5e-3
    eta: Amount = 1.0
    centre_eps: Amount = 0.1

    def network(self, size: tuple[int, int]) -> Sphere:
        return Sphere(self.rep_dim, size)

    def learn(self, pictures: Pictures, log: Log) -> Sphere:
        """Logs `deep_sad/pretrain_loss` and `deep_sad/loss` every ten steps."""
        network = self.network((pictures.normals.shape[2], pictures.normals.shape[3]))
        self._pretrain(network.features, pictures.inside, log)
        network.centre = self._centre(network.features, pictures.inside)
        self._train(network, pictures, log)
        return network

    def _pretrain(self, features: LeNet, inside: Tensor, log: Log) -> None:
        """Trains the network itself, not a copy, as an autoencoder's encoder by squared error."""
        decoder = LeNetDecoder(self.rep_dim, (inside.shape[2], inside.shape[3]))
        for step, optimizer in self._steps(
            nn.ModuleList([features, decoder]), self.pretrain_steps, self.pretrain_weight_decay
        ):
            x = pick(inside, self.batch_size)
            with autocast():
                made = decoder(features(x))
            loss = F.mse_loss(made.float(), x)
            _descend(optimizer, loss)
            if step % 10 == 0:
                log("deep_sad/pretrain_loss", loss.item(), step)

    def _train(self, network: Sphere, pictures: Pictures, log: Log) -> None:
        inside, outside = pictures.inside, self.batch_size // 2 if len(pictures.anomalies) else 0
        for step, optimizer in self._steps(network, self.steps, self.weight_decay):
            x = torch.cat([pick(inside, self.batch_size - outside), pick(pictures.anomalies, outside)])
            with autocast():
                distance = network(x)
            loss = self._loss(distance, outside)
            _descend(optimizer, loss)
            if step % 10 == 0:
                log("deep_sad/loss", loss.item(), step)

    def _loss(self, distance: Tensor, outside: int) -> Tensor:
        """The mean over squared distances (b,), the last `outside` of them inverted."""
        inside = len(distance) - outside
        return torch.cat([distance[:inside], self.eta / (distance[inside:] + _EPS)]).mean()

    @torch.no_grad()
    def _centre(self, features: nn.Module, inside: Tensor) -> Tensor:
        """The mean of the normals' features, its coordinates pushed away from 0 to at least `centre_eps`; shape
        (rep_dim,)."""
        features.eval()
        centre = batched(inside, features).mean(0)
        features.train()
        sign = torch.where(centre < 0, -1.0, 1.0)
        return torch.where(centre.abs() < self.centre_eps, sign * self.centre_eps, centre)

    def _steps(self, module: nn.Module, steps: int, weight_decay: float) -> Iterator[tuple[int, torch.optim.Optimizer]]:
        """The steps, each with the optimizer, whose learning rate falls at the milestone."""
        optimizer = torch.optim.Adam(module.parameters(), self.learning_rate, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(steps * self.milestone)])
        for step in range(steps):
            yield step, optimizer
            schedule.step()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
