"""Deep SAD (Ruff et al. 2020): normals are drawn to a centre in feature space, anomalies pushed away from it.

The published form: a LeNet without bias terms, pretrained as the encoder of an autoencoder, the centre the mean of the
normals' features, the score the squared distance to it. Without anomalies it is one-class Deep SVDD (Ruff et al. 2018).
Unlike the reference's, batches are half anomalies when there are any, so that a few dozen of them count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kka.detectors import _state
from kka.detectors._networks import LeNet, LeNetDecoder, autocast, seeded
from kka.log import Log, silent

_NAME = "deep_sad"
_EPS = 1e-6  # keeps the inverse distance finite


@dataclass
class Detector:
    """`eta` weighs the anomalies' inverse distance; learning rates fall to a tenth after `milestone` of the steps.

    No coordinate of the centre is nearer to 0 than `centre_eps`, for a network without bias could reach 0 by zero weights.
    """

    seed: int = 0
    rep_dim: int = 128
    pretrain_steps: int = 200
    steps: int = 700
    batch_size: int = 32
    learning_rate: float = 1e-4
    milestone: float = 0.85
    weight_decay: float = 0.5e-6
    pretrain_weight_decay: float = 0.5e-3
    eta: float = 1.0
    centre_eps: float = 0.1

    def __post_init__(self) -> None:
        _state.check_options(_NAME, self)
        self.network_: LeNet | None = None
        self.centre_ = torch.zeros(self.rep_dim)
        self.size_: tuple[int, int] | None = None

    def fit(
        self,
        normals: _state.Images,
        anomalies: _state.Images | None = None,
        *,
        generated_normals: _state.Images | None = None,
        log: Log = silent,
    ) -> Self:
        """Learns from uint8 (n, h, w, 3); generated normals are normals. Logs `deep_sad/pretrain_loss` and `deep_sad/loss`."""
        _state.check_fit(_NAME, normals, anomalies, generated_normals)
        real = _state.tensor(normals)
        inside = real if generated_normals is None else torch.cat([real, _state.tensor(generated_normals)])
        with seeded(_NAME, self.seed):
            network = LeNet(self.rep_dim, (normals.shape[1], normals.shape[2]))
            self._pretrain(network, inside, log)
            self.centre_ = self._centre(network, inside)
            self._train(network, inside, inside[:0] if anomalies is None else _state.tensor(anomalies), log)
        self.network_, self.size_ = network.eval(), (normals.shape[1], normals.shape[2])
        return self

    def score(self, images: _state.Images) -> NDArray[np.float64]:
        """The squared distance to the centre, shape (n,)."""
        _state.check_score(_NAME, images, self.size_)
        assert self.network_ is not None
        network = self.network_
        return _state.score(images, lambda x: self._distance(network(x)))

    def save(self, folder: Path) -> None:
        """Writes the folder whole or not at all."""
        weights = {} if self.network_ is None else {f"network.{k}": v for k, v in self.network_.state_dict().items()}
        _state.save(folder, _NAME, self, self.size_, {"centre": self.centre_, **weights})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The detector that `save` wrote. Raises KkaError where the folder is broken."""
        facts, tensors = _state.facts(folder), _state.weights(folder)
        detector = cls(**facts["options"])
        detector.size_ = (facts["size"][0], facts["size"][1])
        detector.network_ = LeNet(detector.rep_dim, detector.size_)
        _state.restore(folder, detector.network_, {k.removeprefix("network."): v for k, v in tensors.items() if k != "centre"})
        detector.centre_ = tensors["centre"]
        return detector

    def _pretrain(self, network: LeNet, inside: Tensor, log: Log) -> None:
        """Trains the network itself, not a copy, as an autoencoder's encoder by squared error."""
        decoder = LeNetDecoder(self.rep_dim, (inside.shape[2], inside.shape[3]))
        for step, optimizer in self._steps(nn.ModuleList([network, decoder]), self.pretrain_steps, self.pretrain_weight_decay):
            x = _pick(inside, self.batch_size)
            with autocast():
                made = decoder(network(x))
            loss = F.mse_loss(made.float(), x)
            _descend(optimizer, loss)
            if step % 10 == 0:
                log("deep_sad/pretrain_loss", loss.item(), step)

    def _train(self, network: LeNet, inside: Tensor, anomalies: Tensor, log: Log) -> None:
        outside = self.batch_size // 2 if len(anomalies) else 0
        for step, optimizer in self._steps(network, self.steps, self.weight_decay):
            x = torch.cat([_pick(inside, self.batch_size - outside), _pick(anomalies, outside)])
            with autocast():
                features = network(x)
            loss = self._loss(features.float(), outside)
            _descend(optimizer, loss)
            if step % 10 == 0:
                log("deep_sad/loss", loss.item(), step)

    def _loss(self, features: Tensor, outside: int) -> Tensor:
        """The mean over squared distances, the last `outside` of them inverted; features (b, rep_dim)."""
        distance = self._distance(features)
        inside = len(distance) - outside
        return torch.cat([distance[:inside], self.eta / (distance[inside:] + _EPS)]).mean()

    @torch.no_grad()
    def _centre(self, network: LeNet, inside: Tensor) -> Tensor:
        """The mean of the normals' features, its coordinates pushed away from 0 to at least `centre_eps`; shape (rep_dim,)."""
        network.eval()
        centre = torch.cat([network(part) for part in inside.split(_state.BATCH)]).mean(0)
        network.train()
        sign = torch.where(centre < 0, -1.0, 1.0)
        return torch.where(centre.abs() < self.centre_eps, sign * self.centre_eps, centre)

    def _distance(self, features: Tensor) -> Tensor:
        return ((features - self.centre_) ** 2).sum(1)

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


def _pick(images: Tensor, n: int) -> Tensor:
    return images[(torch.rand(n) * len(images)).long()]
