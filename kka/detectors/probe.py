"""A probe on a frozen backbone's vector of the whole picture: distance to the nearest normals, and a linear binary
head.

The head is what FITYMI fits on generated anomalies (Mirzaei et al. 2023, "Fake it until you make it"). Without
anomalies the distance alone is the score, as in "Deep nearest neighbor anomaly detection" (Bergman et al. 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kka.detectors.shared.base import Amount, Pictures, Whole
from kka.detectors.shared.features import Bank, Frozen, Head, spread
from kka.detectors.shared.state import batched
from kka.log import Log


class Probe(Head):
    """Features (b, c) -> scores (b,): the distance in deviations of the normals', and the head's logit."""

    mean: Tensor
    std: Tensor
    usual: Tensor

    def __init__(self, fingerprint: Tensor, rows: Tensor, k: int, share: float) -> None:
        super().__init__(fingerprint)
        self.k, self.share = k, share
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("std", spread(rows))
        self.bank = Bank(self.standard(rows))
        self.register_buffer("usual", torch.zeros(2))
        self.head = nn.Linear(rows.shape[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def standard(self, features: Tensor) -> Tensor:
        """Features in deviations of the normals, and of length 1."""
        return nn.functional.normalize((features - self.mean) / self.std, dim=1)

    def distance(self, rows: Tensor, skip: int = 0) -> Tensor:
        """Mean distance to the k nearest normals after the first `skip`, (b,)."""
        nearest: Tensor = self.bank(rows, self.k + skip)[:, skip:]
        return nearest.clamp_min(1e-12).sqrt().mean(1)

    def forward(self, features: Tensor) -> Tensor:
        rows = self.standard(features)
        logit: Tensor = self.head(rows).squeeze(1)
        return self.share * (self.distance(rows) - self.usual[0]) / self.usual[1] + logit


@dataclass
class Detector(Frozen):
    """`k` nearest normals; `knn_weight` of their distance beside the head's logit when there are anomalies;
    `regularisation` holds the head's weights down, relative to the loss of one picture."""

    k: Whole = 3
    knn_weight: Amount = 1.0
    regularisation: Amount = 3e-6

    def network(self, size: tuple[int, int]) -> Probe:
        width = self.width(size)
        return Probe(self._fingerprint(), torch.zeros(1, width), self.k, self.knn_weight)

    def learn(self, pictures: Pictures, log: Log) -> Probe:
        """Logs `probe/loss`, the head's, where there are anomalies."""
        normals = batched(pictures.inside, self.features)
        network = Probe(self._fingerprint(), normals, self.k, self.knn_weight)
        rows = network.standard(normals)
        with torch.no_grad():
            own = network.distance(rows, skip=1) if len(rows) > 1 else torch.ones(1)
            # with few normals their distances may hardly vary
            network.usual.copy_(
                torch.stack([own.mean(), torch.maximum(own.std(unbiased=False), 0.05 * own.mean()) + 1e-6])
            )
        if len(pictures.anomalies):
            anomalies = network.standard(batched(pictures.anomalies, self.features))
            log("probe/loss", self._fit_head(network.head, rows, anomalies), 0)
        return network

    def _fit_head(self, head: nn.Linear, inside: Tensor, outside: Tensor) -> float:
        """Logistic regression, both sides of equal weight. Returns the loss."""
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")
        softplus = nn.functional.softplus

        def loss() -> Tensor:
            optimizer.zero_grad()
            loss = (
                softplus(head(inside)).mean()
                + softplus(-head(outside)).mean()
                + self.regularisation * head.weight.square().sum()
            )
            loss.backward()
            return loss

        optimizer.step(loss)
        return loss().item()
