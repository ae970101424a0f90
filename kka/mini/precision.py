"""The number format that the built-in models are trained in."""

import torch


def autocast(device: str) -> torch.autocast:
    """bfloat16 where the processor computes in it; emulated it is ten times slower than plain float32."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or torch.cpu._is_avx512_bf16_supported())
