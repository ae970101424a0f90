"""The hypersphere classifier (Ruff et al. 2020, "Rethinking assumptions in deep anomaly detection"): normals are drawn
into a ball around 0 in feature space, anomalies pushed out of it. The distance is pseudo-Huber's (Liznerski et al.
2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kka.detectors.shared.base import Amount, Whole
from kka.detectors.shared.exposure import Exposure
from kka.detectors.shared.networks import ConvNet


class Ball(nn.Module):
    """Pictures (b, 3, h, w) -> pseudo-Huber distance sqrt(|f|^2 + 1) - 1 of their features f from 0, shape (b,)."""

    def __init__(self, width: int, rep_dim: int) -> None:
        super().__init__()
        self.features = ConvNet(width, rep_dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(self.features(x).float().view(x.shape[0], -1).square().sum(1) + 1) - 1


@dataclass
class Detector(Exposure):
    """Outlier exposure with `rep_dim` features."""

    rep_dim: Whole = 16
    learning_rate: Amount = 1e-3

    def member(self) -> Ball:
        return Ball(self.width, self.rep_dim)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The distance d of normals, -log(1 - exp(-d)) of anomalies."""
        return torch.where(labels == 1, -torch.log(-torch.expm1(-scores.clamp_min(1e-6))), scores).mean()
