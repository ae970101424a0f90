"""Outlier exposure by binary cross entropy, the steadier detector and evaluator; the score is a logit, which does not
saturate."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kka.detectors.shared.base import Amount
from kka.detectors.shared.exposure import Exposure
from kka.detectors.shared.networks import ConvNet


@dataclass
class Detector(Exposure):
    """With a `focal` of more than 0, pictures that are plainly right count less: focal loss (Lin et al. 2017), its
    gamma."""

    focal: Amount = 0.0

    def member(self) -> ConvNet:
        return ConvNet(self.width)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return ((1 - (-losses).exp()).clamp_min(1e-6) ** self.focal * losses).mean()
