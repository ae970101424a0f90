"""Changes to whole batches of pictures, float (b, 3, h, w) in 0 to 1, each row changed in its own way.

All draw from torch's global generator, which a detector seeds for the time of its fit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def vary(x: Tensor, degrade: float) -> Tensor:
    """Flips, shifts and turns a little, changes light and colour slightly, and degrades by blur and noise.

    Normals and anomalies, real and generated, are all varied alike. Colour varies little, for it often is what defines
    a class; blur and noise hide the traces that a generator leaves, which else would tell generated from real."""
    b = len(x)
    flip = torch.where(torch.rand(b) < 0.5, -1.0, 1.0)
    x = _warp(
        x, _uniform(b, -0.15, 0.15), _uniform(b, 0.95, 1.05), _uniform(b, -0.08, 0.08), _uniform(b, -0.08, 0.08), flip
    )
    x = x * _rows(_uniform(b, 0.93, 1.07)) + (torch.rand(b, 3, 1, 1) - 0.5) * 0.04
    return blur_and_noise(x, degrade).clamp(0, 1)


def blur_and_noise(x: Tensor, strength: float) -> Tensor:
    """Each row blurred from not at all to fully by a 3x3 binomial, and noised up to a deviation of 0.08 times
    `strength`."""
    if strength == 0:
        return x
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    x = torch.lerp(x, blurred, _rows(torch.rand(len(x)) * min(1.0, strength)))
    return x + torch.randn_like(x) * _rows(torch.rand(len(x)) ** 2 * 0.08 * strength)


def cut_paste(x: Tensor) -> Tensor:
    """Random anomalies out of normals, after CutPaste (Li et al. 2021): a patch or a thin scar of the same or another
    normal, turned and jittered in colour, stands elsewhere; beside these, patches of noise and changed colours of the
    whole picture."""
    b = len(x)
    kind = torch.rand(b)
    patched = _paste(x, _patch(x, scar=torch.rand(b) < 0.35), kind)
    return torch.where(_rows(kind) < 0.75, patched, recolour(x)).clamp(0, 1)


def recolour(x: Tensor) -> Tensor:
    """Channels shuffled towards another order and colours shifted, strongly enough to be another colour."""
    b, _, h, w = x.shape
    orders = torch.rand(b, 3).argsort(dim=1)
    shuffled = x.gather(1, orders[:, :, None, None].expand(b, 3, h, w))
    shift = (torch.rand(b, 3, 1, 1) - 0.5) * _rows(_uniform(b, 0.2, 0.8))
    return torch.lerp(x, shuffled, _rows(_uniform(b, 0.3, 1.0))) + shift


def _paste(x: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
    """Fills the mask from a warped normal, or for a fifth of the rows with noise of a random colour."""
    b = len(x)
    source = torch.where(_rows(torch.rand(b)) < 0.5, x, x[torch.randperm(b)])
    turn, zoom, right, down = (
        _uniform(b, -math.pi, math.pi),
        _uniform(b, 0.7, 1.4),
        _uniform(b, -0.8, 0.8),
        _uniform(b, -0.8, 0.8),
    )
    source = _warp(source, turn, zoom, right, down, torch.ones(b))
    jitter = _rows(_uniform(b, 0.6, 1.4)) * source + (torch.rand(b, 3, 1, 1) - 0.5) * 0.4
    noise = torch.rand(b, 3, 1, 1) + torch.randn_like(x) * _rows(_uniform(b, 0.0, 0.3))
    return torch.lerp(x, torch.where(_rows(kind) < 0.15, noise, jitter), mask)


def _patch(x: Tensor, scar: Tensor) -> Tensor:
    """Masks (b, 1, h, w) of turned rectangles: patches of 2 to 15% of the picture, or scars."""
    b, _, h, w = x.shape
    area, aspect = _uniform(b, 0.02, 0.15), torch.exp(_uniform(b, -1.1, 1.1))
    long = torch.where(scar, _uniform(b, 0.15, 0.5), torch.sqrt(area * aspect))
    short = torch.where(scar, _uniform(b, 0.04, 0.12), torch.sqrt(area / aspect))
    angle, cx, cy = _uniform(b, 0, math.pi), _uniform(b, 0.15, 0.85), _uniform(b, 0.15, 0.85)
    gx, gy = torch.arange(w).add(0.5).div(w)[None, None], torch.arange(h).add(0.5).div(h)[None, :, None]
    dx, dy = gx - cx[:, None, None], gy - cy[:, None, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    inside = ((dx * cos + dy * sin).abs() < long[:, None, None] / 2) & (
        (dy * cos - dx * sin).abs() < short[:, None, None] / 2
    )
    return inside[:, None].float()


def _warp(x: Tensor, angle: Tensor, zoom: Tensor, dx: Tensor, dy: Tensor, flip: Tensor) -> Tensor:
    """Rows turned, scaled, shifted (in half pictures) and mirrored; what comes from outside is reflected."""
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    grid = torch.stack([torch.stack([cos * flip, -sin, dx], 1), torch.stack([sin * flip, cos, dy], 1)], 1)
    return F.grid_sample(
        x, F.affine_grid(grid, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )


def _uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n) * (high - low) + low


def _rows(values: Tensor) -> Tensor:
    return values[:, None, None, None]
