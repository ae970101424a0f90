"""Few rows that stand for many: a greedy k-centre choice, and k-means."""

import torch
from torch import Tensor
from tqdm import trange

_PROJECTED = (
    128  # dimensions in which the coreset is chosen: distances hold to a few per cent (Johnson and Lindenstrauss)
)


def coreset(rows: Tensor, wanted: int) -> Tensor:
    """The places of `wanted` of the rows (n, d): each is the farthest from those before it (Sener and Savarese 2018),
    the first is drawn from torch's global generator."""
    if wanted == 0:
        return torch.zeros(0, dtype=torch.long)
    if rows.shape[1] > _PROJECTED:
        rows = rows @ (torch.randn(rows.shape[1], _PROJECTED) / _PROJECTED**0.5)
    squares, nearest, buffer = rows.square().sum(1), torch.full((len(rows),), torch.inf), torch.empty(len(rows))
    chosen = torch.zeros(wanted, dtype=torch.long)
    chosen[0] = torch.randint(len(rows), (1,))
    for i in trange(1, wanted, desc="coreset", leave=False, disable=None):
        centre = rows[chosen[i - 1]]
        torch.mv(rows, centre, out=buffer)
        buffer.mul_(-2).add_(squares).add_(centre.square().sum())
        torch.minimum(nearest, buffer, out=nearest)
        chosen[i] = nearest.argmax()
    return chosen
