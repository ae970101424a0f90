"""Captions for pictures that have none, by an image-to-text model of transformers (BLIP, GIT, LLaVA and their like)."""

from collections.abc import Iterator, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from kka.errors import KkaError
from kka.images import open_picture

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
ASKED = "Describe this picture in one short sentence."  # of models that chat; others caption without being asked
_BATCH, _LONGEST, _SIDE = 8, 40, 512  # pictures, tokens, pixels


def write_captions(model: str, files: Sequence[Path]) -> list[str]:
    """One caption for each picture, always the likeliest one. Raises KkaError where the model cannot be read or says
    nothing."""
    network, processor = _load(model)
    captions: list[str] = []
    with tqdm(total=len(files), desc="captions", unit="picture", disable=None) as bar:
        for pictures in _batches(files):
            captions += _captions(network, processor, pictures)
            bar.update(len(pictures))
    if empty := [str(file) for file, caption in zip(files, captions, strict=True) if not caption]:
        raise KkaError(
            f"the captioner '{model}' says nothing about {len(empty)} of {len(files)} pictures: {empty[0]}. Take"
            " another."
        )
    return captions


def _load(model: str) -> tuple[Any, Any]:
    wanted = f"prepare.options.captioner: wanted an image-to-text model by Hugging Face id or path, got '{model}'"
    try:
        processor = AutoProcessor.from_pretrained(expanduser(model))
        network, info = AutoModelForImageTextToText.from_pretrained(
            expanduser(model), dtype=torch.float32, output_loading_info=True
        )
    except (ImportError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise KkaError(f"{wanted} ({' '.join(str(error).split())[:160]})") from None
    if info["missing_keys"] or not hasattr(processor, "image_processor"):
        raise KkaError(f"{wanted}, which reads no pictures or lacks weights.")
    return network.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def _batches(files: Sequence[Path]) -> Iterator[list[Image.Image]]:
    for start in range(0, len(files), _BATCH):
        pictures = [open_picture(path, side=_SIDE).rgb for path in files[start : start + _BATCH]]
        for picture in pictures:
            picture.thumbnail((_SIDE, _SIDE))
        yield pictures


@torch.inference_mode()
def _captions(network: Any, processor: Any, pictures: list[Image.Image]) -> list[str]:
    prompt: dict[str, Any] = {}
    images: list[Any] = list(pictures)
    if getattr(processor, "chat_template", None):
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]}]
        processor.tokenizer.padding_side = "left"
        prompt = {
            "text": [processor.apply_chat_template(turn, add_generation_prompt=True)] * len(pictures),
            "padding": True,
        }
        images = [[p] for p in pictures]  # one for each text
    inputs = processor(images=images, return_tensors="pt", **prompt).to(network.device)
    out = network.generate(**inputs, max_new_tokens=_LONGEST, do_sample=False)
    if prompt:  # what it was asked stands before its answer
        out = out[:, inputs["input_ids"].shape[1] :]
    return [" ".join(text.split()).strip(" .") for text in processor.batch_decode(out, skip_special_tokens=True)]
