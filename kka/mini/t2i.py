"""Recipe of the built-in text-to-image model: a small Stable Diffusion pipeline that draws blossom's flowers from
captions.

First an autoencoder (8 latent channels on an 8x8 grid, almost no KL), whose decoder then learns on alone, for it is
what blurs the petals. Then a UNet and a CLIP text encoder together on its latents: v-prediction, 10% caption dropout
for classifier-free guidance, an exponential moving average of the weights; and once more from there, on other drawings.
A tenth of all species is withheld from training (`blossom.withheld`)."""

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from kka.datasets import blossom
from kka.mini.precision import autocast
from kka.mini.tokens import clip_tokenizer

TOKENS = 32  # the longest caption has 27
NOISE = 0.05  # on the latents, while the autoencoder trains


def autoencoder(steps: int, batch: int, seed: int, device: str) -> tuple[AutoencoderKL, dict[str, Any]]:
    """Trains the autoencoder on fresh drawings, then its decoder alone for as many steps; returns it with what was
    measured."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=32,
    ).to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    began, rng = time.time(), np.random.default_rng(seed)
    for step in range(steps):
        x = _tensor(blossom.draw(blossom.flowers(batch, None, rng), rng), device)
        with autocast(device):
            posterior = vae.encode(x).latent_dist
            # a little noise on the latents makes the decoder forgive the diffusion model its last errors
            y = vae.decode(posterior.mean + NOISE * torch.randn_like(posterior.mean)).sample
        loss = F.mse_loss(y.float(), x) + 0.05 * F.l1_loss(y.float(), x) + 1e-6 * posterior.kl().mean()
        _update(loss, vae, optimizer, schedule)
        if step % 100 == 0 or step == steps - 1:
            _say("autoencoder", step, steps, loss, began)
    _sharpen(vae, steps, batch // 2, seed + 1)
    vae.eval()
    _settle_posterior(vae)
    measured = {"psnr": round(psnr(vae, seed + 1), 2), "steps": steps, "minutes": round((time.time() - began) / 60, 1)}
    vae.register_to_config(
        scaling_factor=1 / float(latents(vae, blossom.draw(blossom.flowers(1000, None, rng), rng)).std())
    )
    print(measured, flush=True)
    return vae, measured


def _sharpen(vae: AutoencoderKL, steps: int, batch: int, seed: int) -> None:
    """Trains the decoder alone, on squared error and on the differences between neighbouring pixels: the latents hold
    the shapes of small petals long before the decoder draws them."""
    torch.manual_seed(seed)
    vae.requires_grad_(False)
    learning: Any = nn.ModuleList([vae.decoder, vae.post_quant_conv]).requires_grad_(True)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=1.5e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.1)
    began, rng = time.time(), np.random.default_rng(seed)
    for step in range(steps):
        x = _tensor(blossom.draw(blossom.flowers(batch, None, rng), rng), vae.device)
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mean
        y = vae.decode(z + NOISE * torch.randn_like(z)).sample
        loss = F.mse_loss(y, x) + 0.05 * F.l1_loss(y, x) + 0.1 * F.l1_loss(_edges(y), _edges(x))
        _update(loss, learning, optimizer, schedule)
        if step % 100 == 0 or step == steps - 1:
            _say("decoder", step, steps, loss, began)
    vae.requires_grad_(True)


def _edges(x: Tensor) -> Tensor:
    """The differences between neighbouring pixels, right and down."""
    return torch.cat([x.diff(dim=3).flatten(1), x.diff(dim=2).flatten(1)], 1)


@torch.no_grad()
def _settle_posterior(vae: AutoencoderKL) -> None:
    """Gives the posterior the deviation that the decoder was trained to forgive: it was never sampled from, so its own
    means nothing, and image-to-image samples from it."""
    head = vae.config.latent_channels
    last: Any = vae.quant_conv
    last.weight[head:] = 0
    last.bias[head:] = 2 * math.log(NOISE)


@torch.no_grad()
def psnr(vae: AutoencoderKL, seed: int, n: int = 1000) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions of `n` fresh drawings, the mean over images."""
    rng = np.random.default_rng(seed)
    x = _tensor(blossom.draw(blossom.flowers(n, None, rng), rng), vae.device)
    y = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in x.split(100)]).clamp(-1, 1)
    return float((10 * torch.log10(4 / ((x - y) ** 2).mean((1, 2, 3)))).mean())


@torch.no_grad()
def latents(vae: AutoencoderKL, images: NDArray[np.uint8]) -> Tensor:
    """Latents (n, 8, h/4, w/4), not scaled, of uint8 images (n, h, w, 3)."""
    return torch.cat([vae.encode(part).latent_dist.mode() for part in _tensor(images, vae.device).split(250)])


def diffusion(
    vae: AutoencoderKL, steps: int, batch: int, images: int, seed: int, device: str, out: Path, *, more: bool = False
) -> dict[str, Any]:
    """Trains UNet and text encoder on the latents of `images` drawings, and saves the pipeline to `out`; with `more`
    those that stand there go on."""
    peak, warm, fall = (7e-4, 0.05, 40) if more else (1e-3, 0.03, 20)
    torch.manual_seed(seed)
    rng, began, total = np.random.default_rng(seed), time.time(), 0.0
    rows = blossom.flowers(round(images * 1.12), None, rng)
    rows = rows[~blossom.withheld(rows)][:images]
    x = latents(vae, blossom.draw(rows, rng)) * vae.config.scaling_factor
    if more:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    else:
        tokenizer = clip_tokenizer(blossom.captions(blossom.flowers(5000, None, rng), rng), TOKENS)
    draws, reads = unet(), text_encoder(tokenizer)
    if more:
        draws.load_state_dict(UNet2DConditionModel.from_pretrained(out / "unet", dtype=torch.float32).state_dict())
        reads.load_state_dict(CLIPTextModel.from_pretrained(out / "text_encoder", dtype=torch.float32).state_dict())
    # torch's fused attention is slow backwards on a CPU: written out it trains half as fast again
    draws.set_attn_processor(AttnProcessor())
    reads.set_attn_implementation("eager")
    model = nn.ModuleDict({"unet": draws, "text": reads}).to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, pct_start=warm, final_div_factor=fall
    )
    for step, (i, ids) in enumerate(_batches(rows, tokenizer, batch, steps, rng)):
        loss = _v_loss(model, x[i], ids.to(device), device)
        _update(loss, model, optimizer, schedule)
        average.update_parameters(model)
        total += loss.item()
        if step % 100 == 99 or step == steps - 1:
            _say("diffusion", step, steps, torch.tensor(total / 100), began)
            total = 0.0
    save(vae, average.module, tokenizer, out)
    return {"steps": steps, "batch": batch, "images": images, "minutes": round((time.time() - began) / 60, 1)}


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,
        dropout=0.0,
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip


SCHEDULE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
}


def _v_loss(model: nn.ModuleDict, x: Tensor, ids: Tensor, device: str) -> Tensor:
    """Mean squared error of the predicted velocity (Salimans & Ho 2022)."""
    noiser = DDPMScheduler(**SCHEDULE)
    noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),), device=device)
    with autocast(device):
        v = model["unet"](noiser.add_noise(x, noise, t), t, model["text"](ids).last_hidden_state).sample
    return F.mse_loss(v.float(), noiser.get_velocity(x, noise, t))


def _batches(
    rows: NDArray[np.int64], tokenizer: CLIPTokenizer, batch: int, steps: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices into the images with token ids of fresh captions, one in ten of them empty."""
    for _ in range(steps):
        i = rng.integers(len(rows), size=batch)
        captions = [
            "" if drop else c for c, drop in zip(blossom.captions(rows[i], rng), rng.random(batch) < 0.1, strict=True)
        ]
        ids = tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        yield torch.from_numpy(i), ids


def save(vae: AutoencoderKL, model: Any, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Writes the pipeline in half precision, as any Stable Diffusion pipeline stands on disk."""
    # a copy, not from_config: that forgets what was registered after construction, the scaling factor
    copies: dict[str, Any] = {"vae": deepcopy(vae).cpu(), "unet": unet(), "text": text_encoder(tokenizer)}
    for name, source in {"unet": model["unet"], "text": model["text"]}.items():
        copies[name].load_state_dict(source.state_dict())
    sampler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing", steps_offset=1)
    pipe = StableDiffusionPipeline(
        copies["vae"], copies["text"], tokenizer, copies["unet"], sampler, None, None, requires_safety_checker=False
    )
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(out)


def train(
    out: Path,
    seed: int = 0,
    device: str = "cpu",
    *,
    scale: float = 1.0,
    vae_steps: int = 3000,
    steps: int = 4000,
    more: int = 2500,
) -> None:
    """The whole recipe; an autoencoder that already stands in `out` is kept. `scale` shortens all trainings, for
    tests."""
    if (out / "vae" / "measured.json").exists():
        vae = _stored(out, device)
        measured = json.loads((out / "vae" / "measured.json").read_text())
    else:
        vae, measured = autoencoder(round(vae_steps * scale), 64, seed, device)
        vae.save_pretrained(out / "vae")
        (out / "vae" / "measured.json").write_text(json.dumps(measured) + "\n")
    run = diffusion(vae, round(steps * scale), 64, round(40_000 * min(1, scale)), seed, device, out)
    on = diffusion(
        _stored(out, device), round(more * scale), 64, round(60_000 * min(1, scale)), seed + 1, device, out, more=True
    )
    about = {"seed": seed, "autoencoder": measured, "diffusion": run, "diffusion, more": on}
    (out / "measured.json").write_text(json.dumps(about, indent=2) + "\n")


def _stored(out: Path, device: str) -> AutoencoderKL:
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(out / "vae", dtype=torch.float32).to(device).eval()
    return vae


def _tensor(images: NDArray[np.uint8], device: Any) -> Tensor:
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous()


def _update(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _say(what: str, step: int, steps: int, loss: Tensor, began: float) -> None:
    print(f"{what} {step + 1}/{steps} loss {loss.item():.4f} {time.time() - began:.0f} s", flush=True)
