"""Recipe of the built-in feature extractor: a small ResNet that reads all six attributes of drawn flowers.

It stands on disk as a `ResNetForImageClassification` (its labels are `colour: yellow`, ...), so that the same files
give features through AutoBackbone and attribute readings through its head. Pictures are enlarged to `SIZE` pixels
first: a ResNet's stem divides the side by four."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange
from transformers import ResNetConfig, ResNetForImageClassification

from kka.datasets import blossom

SIZE = 64
LABELS = [f"{name}: {value}" for name, values in blossom.ATTRIBUTES.items() for value in values]
WIDTHS = [len(v) for v in blossom.ATTRIBUTES.values()]


def train(
    out: Path, seed: int = 0, device: str = "cpu", *, scale: float = 1.0, steps: int = 1500, batch: int = 64
) -> None:
    """Trains on fresh drawings, blurred and noised at random so that features hold for generated pictures too."""
    torch.manual_seed(seed)
    steps, rng, began = max(1, round(steps * scale)), np.random.default_rng(seed), time.time()
    model = ResNetForImageClassification(ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], layer_type="basic",
        id2label=dict(enumerate(LABELS)), label2id={v: i for i, v in enumerate(LABELS)},
    )).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in (bar := trange(steps, desc="features", mininterval=5)):
        rows = blossom.flowers(batch, None, rng)
        x = tensor(blossom.draw(rows, rng)).to(device)
        if rng.random() < 0.5:
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
        x = x + torch.randn_like(x) * 0.05 * rng.random()
        loss = _loss(model(x).logits, torch.from_numpy(rows).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval().to(torch.float16).save_pretrained(out)
    rows = blossom.flowers(2000, None, rng)
    right = accuracy(read(load(out), blossom.draw(rows, rng)), rows)
    measured = {
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "minutes": round((time.time() - began) / 60, 1),
        "accuracy": right,
    }
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")


def load(folder: Path) -> ResNetForImageClassification:
    return ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def read(model: ResNetForImageClassification, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The attribute rows, shape (n, 6), that the model sees in uint8 images (n, h, w, 3)."""
    logits = torch.cat([model(part).logits for part in tensor(images).split(250)])
    return np.stack([part.argmax(1).numpy() for part in logits.split(WIDTHS, dim=1)], axis=1)


def accuracy(found: NDArray[np.int64], asked: NDArray[np.int64]) -> dict[str, float]:
    """The share of images that show the asked value, by attribute and on average (0 to 1)."""
    shares = (found == asked).mean(0)
    return {
        **dict(zip(blossom.ATTRIBUTES, shares.round(4).tolist(), strict=True)),
        "mean": round(float(shares.mean()), 4),
    }


def tensor(images: NDArray[np.uint8]) -> Tensor:
    """Float images (n, 3, SIZE, SIZE) in -1 to 1."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(x, size=SIZE, mode="bilinear", align_corners=False)


def _loss(logits: Tensor, rows: Tensor) -> Tensor:
    parts: Sequence[Tensor] = logits.split(WIDTHS, dim=1)
    return torch.stack([F.cross_entropy(p, rows[:, i]) for i, p in enumerate(parts)]).sum()
