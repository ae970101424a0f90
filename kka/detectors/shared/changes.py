"""What changed in features where a picture was changed: patches of an anomaly beside those of the picture that it was
made from.

Not every change of pixels is one of features, and features of normal patches differ anyway. A patch counts as
anomalous where it differs by more than that, and where the mask of the change reaches it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kka.detectors.shared import state
from kka.detectors.shared.base import Pictures
from kka.detectors.shared.features import Bank, Patchwise

_ASKED = 1000  # normal patches whose nearest other is looked for: a quantile of them is known to a per cent or two


def usual_distance(rows: Tensor, share: float = 0.9) -> float:
    """By how much normal patches (m, c) differ anyway: the quantile `share` of their distance to the nearest other one;
    0 where there is no other."""
    if len(rows) < 2:
        return 0.0
    asked = rows[:: -(-len(rows) // _ASKED)]
    nearest: Tensor = Bank(rows)(asked, 2)[:, 1]
    return float(nearest.sqrt().quantile(share))


def changed(after: Tensor, before: Tensor, usual: float) -> Tensor:
    """Whether patches (n, p, c) lie farther than `usual` from what they were before: (n, p)."""
    distances: Tensor = (after - before).norm(dim=2)
    return distances > usual


def touched(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid over the pictures masks (n, h, w) touch, or one of whose eight neighbours they touch: (n,
    *grid)."""
    cells = F.adaptive_max_pool2d(masks[:, None].float(), grid)
    return F.max_pool2d(cells, 3, stride=1, padding=1)[:, 0] > 0


@torch.no_grad()
def changed_patches(detector: Patchwise, pictures: Pictures, scale: Tensor, usual: float) -> tuple[Tensor, Tensor]:
    """Patches of the anomalies, as many of each (n, k, c), at random, but those first that count; and which count, (n,
    k). Each channel's difference is measured in its `scale` (c,), in which `usual` is given too."""
    anomalies, sources, masks = pictures.anomalies, pictures.sources, pictures.masks
    assert sources is not None and masks is not None
    each = detector.patches_each(len(anomalies))

    def some(rows: Tensor) -> tuple[Tensor, Tensor]:
        after, before = (detector.features(state.floats(images[rows])) for images in (anomalies, sources))
        reached = touched(masks[rows], (after.shape[2], after.shape[3])).flatten(1)
        after, before = (maps.flatten(2).transpose(1, 2) for maps in (after, before))
        counts = reached & changed(after / scale, before / scale, usual)
        chosen = (torch.rand(counts.shape) - counts.float()).argsort(1)[:, :each]
        return after.gather(1, chosen[:, :, None].expand(-1, -1, after.shape[2])), counts.gather(1, chosen)

    size = state.batch_size(len(anomalies), masks.shape[1], masks.shape[2])
    parts = [some(rows) for rows in torch.arange(len(anomalies)).split(size)]
    return torch.cat([patches for patches, _ in parts]), torch.cat([counts for _, counts in parts])
