"""PatchCore (Roth et al. 2022): a small bank of normal patches that covers all of them; a picture is as anomalous as
those patches of it that are farthest from the bank (as published: as the one that is).

Generated anomalies give a second bank: their patches, but for those that normals have as well, and, where it is known
what the anomalies were made from, but for those that did not change. The nearer a patch is to it, the more anomalous:
the score is the distance to the normal bank less `beta` times that to the anomalous one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kka.detectors.shared.base import Amount, Pictures, Share, Whole
from kka.detectors.shared.changes import changed_patches, usual_distance
from kka.detectors.shared.coreset import coreset
from kka.detectors.shared.features import Bank, PatchHead, Patchwise, spread
from kka.log import Log


class Banks(PatchHead):
    """Two banks of patches, each channel in deviations of the normals'; an empty anomalous one plays no part."""

    std: Tensor

    def __init__(
        self, fingerprint: Tensor, top_share: float, beta: float, std: Tensor, normal: Tensor, anomalous: Tensor
    ) -> None:
        super().__init__(fingerprint, top_share)
        self.register_buffer("std", std)
        self.normal, self.anomalous, self.beta = Bank(normal), Bank(anomalous), beta

    def patches(self, features: Tensor) -> Tensor:
        b, _, h, w = features.shape
        rows = features.permute(0, 2, 3, 1).flatten(0, 2) / self.std
        distances: Tensor = self.normal(rows)[:, 0].sqrt()
        if len(self.anomalous.stored):
            distances = distances - self.beta * self.anomalous(rows)[:, 0].sqrt()
        return distances.view(b, h, w)


@dataclass
class Detector(Patchwise):
    """Either bank keeps at most `most_stored` patches, the normal one `coreset_share` of them. A patch of an anomaly is
    kept when it lies farther from the normal bank than the share `prune_share` of the normal patches outside it."""

    coreset_share: Share = 0.1
    most_stored: Whole = 4000
    beta: Amount = 0.5
    prune_share: Share = 0.9

    def network(self, size: tuple[int, int]) -> Banks:
        width = self.width(size)
        return self._banks(torch.ones(width), torch.zeros(1, width), torch.zeros(0, width))

    def learn(self, pictures: Pictures, log: Log) -> Banks:
        """Logs how many patches either bank keeps."""
        inside = self.rows(pictures.inside).flatten(0, 1)
        std = spread(inside)
        inside = inside.div_(std)
        outside = self._outside(pictures, inside, std)
        normal = inside[self._coreset(inside)]
        anomalous = self._prune(outside, inside, Bank(normal))
        # at random: a coreset of them would keep the oddest, which say nothing about the boundary
        anomalous = anomalous[torch.randperm(len(anomalous))[: self.most_stored]]
        for name, bank in (("normal", normal), ("anomalous", anomalous)):
            log(f"patchcore/{name}_patches", len(bank), 0)
        return self._banks(std, normal, anomalous)

    def _banks(self, *learnt: Tensor) -> Banks:
        return Banks(self._fingerprint(), self.top_share, self.beta, *learnt)

    def _outside(self, pictures: Pictures, inside: Tensor, std: Tensor) -> Tensor:
        """Patches (n, d) of the anomalies, in deviations of the normals': those that changed, where that is known."""
        if pictures.sources is None:
            return self.rows(pictures.anomalies).flatten(0, 1).div_(std)
        patches, counts = changed_patches(self, pictures, std, usual_distance(inside, self.usual_share))
        return patches[counts] / std

    def _prune(self, outside: Tensor, inside: Tensor, bank: Bank) -> Tensor:
        """The anomalies' patches (n, d) that normals have not."""
        if not len(outside):
            return outside
        usual, distances = bank(inside)[:, 0], bank(outside)[:, 0]
        apart = usual[usual > 1e-3 * usual.max()]  # those in the bank are at no distance
        return outside[distances > apart.quantile(self.prune_share)] if len(apart) else outside

    def _coreset(self, rows: Tensor) -> Tensor:
        wanted = min(self.most_stored, round(self.coreset_share * len(rows)) or min(1, len(rows)))
        return coreset(rows, wanted)
