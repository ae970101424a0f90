"""Small models of the real architectures with random weights, saved as the hub has them: what a user's own path leads
to."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ResNetConfig,
    ResNetModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WORDS = Path(__file__).parent.parent / "kka" / "mini" / "t2i" / "tokenizer"
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is not defined or enable_thinking %}<think>{%"
    " endif %}{% endif %}"
)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LANGUAGE_MODELS: dict[str, tuple[Any, Any]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "glm": (GlmConfig, GlmForCausalLM),
    "glm4": (Glm4Config, Glm4ForCausalLM),
}


def language_model(folder: Path, kind: str, captions: Sequence[str], *, chat: bool = True) -> str:
    """A causal language model with a byte-level tokenizer learnt from the captions, and a chat template."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<think>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    if chat:
        fast.chat_template = CHAT
    fast.save_pretrained(folder)
    config, model = LANGUAGE_MODELS[kind]
    made = model(
        config(
            **SMALL,
            vocab_size=len(fast),
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
            bos_token_id=None,
        )
    )
    made.save_pretrained(folder)
    return str(folder)


def _autoencoder(**more: Any) -> AutoencoderKL:
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(
        **kinds, block_out_channels=[8, 8], latent_channels=4, norm_num_groups=4, sample_size=32, **more
    )


def _unet(**more: Any) -> UNet2DConditionModel:
    kinds = {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
    return UNet2DConditionModel(
        **kinds,
        block_out_channels=[8, 16],
        layers_per_block=1,
        sample_size=16,
        norm_num_groups=4,
        attention_head_dim=4,
        **more,
    )


def _clip(kind: Any) -> Any:
    words = CLIPTokenizer.from_pretrained(WORDS)
    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=16,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def _t5(width: int = 16) -> dict[str, Any]:
    words = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz,."),
    ]
    tokenizer = T5Tokenizer(vocab=words, extra_ids=0, model_max_length=24)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(config)}


def stable_diffusion(folder: Path) -> str:
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=_clip(CLIPTextModel),
        tokenizer=CLIPTokenizer.from_pretrained(WORDS),
        unet=_unet(cross_attention_dim=16),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return str(folder)


def stable_diffusion_xl(folder: Path) -> str:
    torch.manual_seed(0)
    time = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    }
    words = CLIPTokenizer.from_pretrained(WORDS)
    StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=_clip(CLIPTextModel),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer=words,
        tokenizer_2=words,
        unet=_unet(cross_attention_dim=32, **time),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    ).save_pretrained(folder)
    return str(folder)


def pixart(folder: Path) -> str:
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        sample_size=32,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=16,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        use_additional_conditions=False,
    )
    PixArtAlphaPipeline(
        vae=_autoencoder(), transformer=network, scheduler=DPMSolverMultistepScheduler(), **_t5()
    ).save_pretrained(folder)
    return str(folder)


def cogview3(folder: Path) -> str:
    torch.manual_seed(0)
    network = CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=16,
        sample_size=16,
    )
    CogView3PlusPipeline(
        vae=_autoencoder(), transformer=network, scheduler=CogVideoXDDIMScheduler(), **_t5()
    ).save_pretrained(folder)
    return str(folder)


SHIFTED = {"shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False}  # the autoencoder of flow models


def stable_diffusion_3(folder: Path) -> str:
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )
    words, t5 = CLIPTokenizer.from_pretrained(WORDS), _t5(32)
    StableDiffusion3Pipeline(
        vae=_autoencoder(**SHIFTED), transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=_clip(CLIPTextModelWithProjection), text_encoder_2=_clip(CLIPTextModelWithProjection),
        text_encoder_3=t5["text_encoder"], tokenizer=words, tokenizer_2=words, tokenizer_3=t5["tokenizer"],
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def flux(folder: Path) -> str:
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    t5 = _t5()
    FluxPipeline(
        vae=_autoencoder(**SHIFTED),
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=_clip(CLIPTextModel),
        text_encoder_2=t5["text_encoder"],
        tokenizer=CLIPTokenizer.from_pretrained(WORDS),
        tokenizer_2=t5["tokenizer"],
    ).save_pretrained(folder)
    return str(folder)


PIPELINES: dict[str, Callable[[Path], str]] = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "pixart": pixart,
    "cogview3": cogview3,
    "flux": flux,
}


def blip(folder: Path) -> str:
    """A captioning model that is not asked anything."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *(f"word{i}" for i in range(40))]
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = size | {
        "vocab_size": len(words),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "bos_token_id": 5,
        "sep_token_id": 3,
    }
    vision = size | {"image_size": 32, "patch_size": 16}
    BlipForConditionalGeneration(
        BlipConfig(text_config=text | {"pad_token_id": 0}, vision_config=vision)
    ).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return str(folder)


def llava(folder: Path) -> str:
    """A model that chats about pictures."""
    torch.manual_seed(0)
    language_model(folder / "language", "llama", ["a photo of a part"], chat=False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "language")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=16,
    )
    text = LlamaConfig(**SMALL, vocab_size=len(tokenizer))
    image = tokenizer.convert_tokens_to_ids("<image>")
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=image)
    ).save_pretrained(folder)
    chat = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}<|assistant|>"
    )
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer, patch_size=16,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=chat,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def backbone(folder: Path, kind: str) -> str:
    """DINOv2 or ResNet with their image processors."""
    torch.manual_seed(0)
    if kind == "dinov2":
        config = Dinov2Config(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=28,
            patch_size=14,
        )
        Dinov2Model(config).save_pretrained(folder)
    else:
        ResNetModel(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 12, 12], depths=[1] * 4, layer_type="basic")
        ).save_pretrained(folder)
    about = {
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "size": {"height": 28, "width": 28},
        "do_resize": kind == "dinov2",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return str(folder)
