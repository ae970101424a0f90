"""A normal model that generated anomalies correct, and may not replace.

A patch is as anomalous as it is far from the nearest normal one, as in PatchCore (Roth et al. 2022), plus what a small
network adds for what it is and for how it differs from that normal one. The network's last layer begins at zero and
weight decay holds it there, so it begins as the distance alone. It is taught by the patches of generated anomalies that
changed (`changes`), against normal ones and those that did not change.

How distances are measured, and whether they are corrected at all, is decided by held-out evidence (`evidence`): the
default stays unless another is better for sure."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kka.detectors.shared.base import Amount, Pictures, Share, Whole, draw
from kka.detectors.shared.changes import changed_patches, usual_distance
from kka.detectors.shared.coreset import coreset
from kka.detectors.shared.evidence import Judged, grouped, groups_of
from kka.detectors.shared.features import Bank, PatchHead, Patchwise, spread, top, whitening
from kka.log import Log

_logger = logging.getLogger(__name__)
_RANKED = 50_000  # normal patches that the bank is chosen from
_TAUGHT = 40_000  # normal patches, and patches of anomalies, that the correction is taught with
NO_FITS: Mapping[int, nn.Module] = {}


class Corrected(PatchHead):
    """Patches less the `mean` (c,), times `measure` (c, c) -> their distance to the nearest of a bank (m, c), in units
    of `unit`, plus the correction."""

    mean: Tensor
    measure: Tensor
    unit: Tensor
    share: Tensor

    def __init__(
        self, fingerprint: Tensor, top_share: float, mean: Tensor, measure: Tensor, bank: Tensor, hidden: int
    ) -> None:
        super().__init__(fingerprint, top_share)
        self.register_buffer("mean", mean)
        self.register_buffer("measure", measure)
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("share", torch.tensor(top_share, dtype=torch.float64))
        self.bank = Bank(bank)
        self.correction = correction(len(mean), hidden)

    def patches(self, features: Tensor) -> Tensor:
        b, _, h, w = features.shape
        rows = (features.permute(0, 2, 3, 1).flatten(0, 2) - self.mean) @ self.measure
        away = rows - self.bank.stored[self.bank.places(rows)]
        scores = away.norm(dim=1) / self.unit + added(self.correction, rows, away)
        made: Tensor = scores.view(b, h, w)
        return made

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """The share of patches that count is chosen in a fit."""
        self.top_share = float(state_dict.get(prefix + "share", self.share))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def correction(width: int, hidden: int) -> nn.Sequential:
    """Of a measured patch and its difference from the nearest normal one, (n, 2 c) -> (n, 1): zero, until it learns."""
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), last)


def added(network: nn.Module, rows: Tensor, away: Tensor) -> Tensor:
    """What the correction adds to the distances of measured patches (n, c), (n,)."""
    made: Tensor = network(torch.cat([rows, away], 1))
    return made[:, 0]


class Patched(NamedTuple):
    """Pictures' patches (n, p, c), which of them are anomalous (n, p), and the groups of the normals that the pictures
    are or were made from (n,)."""

    patches: Tensor
    anomalous: Tensor
    groups: Tensor

    def some(self, n: int) -> "Patched":
        """At most n of the pictures, at random."""
        chosen = torch.randperm(len(self.groups))[:n]
        return Patched(*(part[chosen] for part in self))

    def flat(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """At most n of the patches, at random, anomalous ones first: (m, c), (m,), (m,)."""
        flags = self.anomalous.flatten()
        chosen = (torch.rand(len(flags)) - flags.float()).argsort()[:n]
        return self.patches.flatten(0, 1)[chosen], flags[chosen], self.groups[chosen // self.patches.shape[1]]


class Way(NamedTuple):
    """A way to measure: patches less `mean` (c,), times `measure` (c, c). The `bank` (m, c) holds measured normal
    patches of pictures of `groups` (m,)."""

    name: str
    mean: Tensor
    measure: Tensor
    bank: Tensor
    groups: Tensor

    def rows(self, patches: Tensor, groups: Tensor) -> "Rows":
        """Patches (n, c) of pictures of `groups` (n,), beside what is nearest to them in the bank's other groups."""
        rows, away = (patches - self.mean) @ self.measure, torch.empty_like(patches)
        for group in groups.unique():
            own, others = groups == group, self.bank[self.groups != group]
            others = others if len(others) else self.bank
            away[own] = rows[own] - others[Bank(others).places(rows[own])]
        return Rows(rows, away, groups)


class Rows(NamedTuple):
    """Measured patches, their differences from what is nearest, (n, c) each, and groups (n,)."""

    rows: Tensor
    away: Tensor
    groups: Tensor

    def take(self, which: Tensor) -> "Rows":
        return Rows(*(part[which] for part in self))


@dataclass
class Detector(Patchwise):
    """The bank keeps at most `most_stored` patches. Channels count in deviations of the normals'; with `choose` they
    are whitened (by principal components), or one of the `top_shares` takes the place of `top_share`, where evidence
    wants it. It is held out by `groups` of normals, and given by at most `most_judged` normals and anomalies. The
    correction has `hidden` units, and learns for `steps` steps of `batch_size` patches; over normal patches it deviates
    by at most `strength` of the deviation of their distances."""

    choose: bool = True
    top_shares: list[Share] = field(default_factory=lambda: [0.03, 0.3])
    most_stored: Whole = 3000
    groups: Annotated[int, Field(ge=2)] = 5
    most_judged: Whole = 150
    strength: Amount = 0.5
    hidden: Whole = 64
    steps: Whole = 400
    batch_size: Annotated[int, Field(ge=2)] = 512
    learning_rate: Amount = 1e-4
    weight_decay: Amount = 0.1

    def network(self, size: tuple[int, int]) -> Corrected:
        width = self.width(size)
        return self._made(Way("", torch.zeros(width), torch.eye(width), torch.zeros(1, width), torch.zeros(1)))

    def learn(self, pictures: Pictures, log: Log) -> Corrected:
        """Logs the held-out AUROC of the default, of what is chosen and of what is corrected, and which are used."""
        patches = self.rows(pictures.inside)
        groups = grouped(patches.mean(1), self.groups, self.seed)
        normal = Patched(patches, torch.zeros(patches.shape[:2], dtype=torch.bool), groups)
        way = self._way("channels", normal)
        if not len(pictures.anomalies):
            return self._made(way)
        anomalous = self._anomalous(pictures, way, normal)
        judged = normal.some(self.most_judged), anomalous.some(self.most_judged)
        way, share = self._chosen(way, normal, judged, log)
        network = self._made(way, share)
        self._correct(network, way, normal, anomalous, judged, log)
        return network

    def _made(self, way: Way, top_share: float | None = None) -> Corrected:
        share = self.top_share if top_share is None else top_share
        return Corrected(self._fingerprint(), share, way.mean, way.measure, way.bank, self.hidden)

    def _way(self, name: str, normal: Patched) -> Way:
        """Raises no error: what varies little is left out."""
        patches, _, groups = normal.flat(_RANKED)
        mean, measure = patches.mean(0), whitening(patches) if name == "whitened" else torch.diag(1 / spread(patches))
        rows = (patches - mean) @ measure
        chosen = coreset(rows, min(self.most_stored, len(rows)))
        return Way(name, mean, measure, rows[chosen], groups[chosen])

    def _anomalous(self, pictures: Pictures, way: Way, normal: Patched) -> Patched:
        """The anomalies' patches. Anomalous are those that changed, or where nobody knows what changed, those that lie
        farther from normal ones than most of these from each other."""
        patches, _, _ = normal.flat(_RANKED)
        scale = spread(patches)
        usual = usual_distance(patches / scale, self.usual_share)
        if pictures.sources is not None:
            found, flags = changed_patches(self, pictures, scale, usual)
            return Patched(found, flags, groups_of(pictures.sources, pictures.inside, normal.groups))
        found, turns = self.rows(pictures.anomalies), normal.groups.unique()
        groups = turns[torch.arange(len(found)) % len(turns)]
        none = Patched(found, torch.zeros(found.shape[:2], dtype=torch.bool), groups)
        return none._replace(anomalous=_maps(way, none) > usual)

    def _chosen(self, default: Way, normal: Patched, judged: "Sides", log: Log) -> tuple[Way, float]:
        """The way to measure and the share of patches that held-out evidence is for."""
        ways, shares = [default], [self.top_share]
        if self.choose:
            ways, shares = [default, self._way("whitened", normal)], [self.top_share, *self.top_shares]
        maps = [[_maps(way, side) for side in judged] for way in ways]
        found = {(i, share): _judged(maps[i], share) for i in range(len(ways)) for share in shares}
        first = found[0, self.top_share]
        best = max(found, key=lambda key: found[key].auroc)
        chosen = best if found[best].compared(first, self.seed).better else (0, self.top_share)
        log("corrected/default_auroc", first.auroc, 0)
        log("corrected/chosen_auroc", found[chosen].auroc, 0)
        return ways[chosen[0]], chosen[1]

    def _correct(
        self, network: Corrected, way: Way, normal: Patched, anomalous: Patched, judged: "Sides", log: Log
    ) -> None:
        """Teaches the correction; it stays zero where held-out evidence is not for it."""
        rows, labels = _taught(way, normal, anomalous)
        network.unit = rows.away[~labels].norm(dim=1).std().clamp_min(1e-6)
        without = {
            int(group): self._fitted(network.unit, rows.take(rows.groups != group), labels[rows.groups != group])
            for group in normal.groups.unique()
        }
        plain, corrected = (
            _judged([_maps(way, side, network.unit, fits) for side in judged], network.top_share)
            for fits in (NO_FITS, without)
        )
        gain = corrected.compared(plain, self.seed)
        log("corrected/corrected_auroc", corrected.auroc, 0)
        log("corrected/used", float(gain.better), 0)
        if gain.better:
            network.correction = self._fitted(network.unit, rows, labels)
        else:
            _logger.warning(
                "corrected: generated anomalies do not help for sure to tell held-out ones from held-out normals (AUROC"
                " %s): the distance to normals alone is used.",
                gain,
            )

    def _fitted(self, unit: Tensor, rows: Rows, labels: Tensor) -> nn.Sequential:
        """The correction, which makes scores of patches the logits of their labels, less what is the same for all. It
        is made smaller where it moves normal patches by more than `strength` of what their distances differ by."""
        network = correction(rows.rows.shape[1], self.hidden)
        level = nn.Parameter(-(rows.away[~labels].norm(dim=1) / unit).quantile(self.usual_share))
        slow: list[dict[str, Any]] = [{"params": network.parameters()}, {"params": [level], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(slow, self.learning_rate, weight_decay=self.weight_decay)
        sides = [torch.nonzero(labels == label)[:, 0] for label in (False, True)]
        if not len(sides[1]):
            return network
        target = torch.repeat_interleave(torch.tensor([0.0, 1.0]), self.batch_size // 2)
        for _ in range(self.steps):
            batch = rows.take(torch.cat([draw(side, self.batch_size // 2) for side in sides]))
            scores = batch.away.norm(dim=1) / unit + added(network, batch.rows, batch.away)
            loss = F.binary_cross_entropy_with_logits(scores + level, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        _restrain(network, rows.take(sides[0]), self.strength)
        return network


@torch.no_grad()
def _restrain(network: nn.Sequential, normal: Rows, strength: float) -> None:
    deviation = float(added(network, normal.rows, normal.away).std())
    for parameter in network[-1].parameters():
        parameter.mul_(min(1.0, strength / max(deviation, 1e-9)))


Sides = tuple[Patched, Patched]  # normals and anomalies


@torch.no_grad()
def _maps(way: Way, pictures: Patched, unit: Tensor | float = 1.0, fits: Mapping[int, nn.Module] = NO_FITS) -> Tensor:
    """The held-out scores of pictures' patches, (n, p): distances, corrected by the fit without a picture's group."""
    found = []
    for patches, group in zip(pictures.patches, pictures.groups, strict=True):
        rows = way.rows(patches, group.expand(len(patches)))
        scores = rows.away.norm(dim=1) / unit
        if fits:
            scores = scores + added(fits[int(group)], rows.rows, rows.away)
        found.append(scores)
    return torch.stack(found)


def _judged(maps: Sequence[Tensor], share: float) -> Judged:
    """Maps of normals and anomalies, (n, p) each."""
    return Judged(*(top(m, share).double().numpy() for m in maps))


def _taught(way: Way, normal: Patched, anomalous: Patched) -> tuple[Rows, Tensor]:
    """Patches of both beside what is nearest to them, and which are anomalous."""
    parts = [side.flat(_TAUGHT) for side in (normal, anomalous)]
    patches, labels, groups = (torch.cat(column) for column in zip(*parts, strict=True))
    return way.rows(patches, groups), labels
