"""Text encoders with random weights, small enough to be made for each run, and a tokenizer of few words."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.threads import one_thread as one_thread

WORDS = ("cat", "dog", "pretty", "house", "a")


def _tokenizer(pad_token: str) -> CLIPTokenizer:
    """CLIP's byte-level BPE, with merges for :data:`WORDS` only: others fall into letters. "!" has id 0."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    merges: Any = []
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            if (symbols[0], symbols[1]) not in merges:
                merges.append((symbols[0], symbols[1]))
            symbols[:2] = [symbols[0] + symbols[1]]
            vocabulary.setdefault(symbols[0], len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=77)


def _config(tokenizer: CLIPTokenizer, seed: int, **changes: int) -> CLIPTextConfig:
    torch.manual_seed(seed)
    return CLIPTextConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **changes,
        }
    )


def _unsettled(model: torch.nn.Module) -> torch.nn.Module:
    """Give the layer norms weights of their own: with 1 and 0 the mean of every hidden state would be 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.add_(torch.rand_like(parameter))
    return model.eval()


@dataclass(frozen=True)
class Pipelines:
    """One pipeline of each family, without UNet and VAE."""

    sd1: StableDiffusionPipeline
    sd2: StableDiffusionPipeline
    sdxl: StableDiffusionXLPipeline


@pytest.fixture(scope="session")
def pipelines() -> Pipelines:
    plain, padded = _tokenizer("<|endoftext|>"), _tokenizer("!")
    bare = {"vae": None, "unet": None, "scheduler": None}
    checks = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return Pipelines(
        sd1=StableDiffusionPipeline(
            text_encoder=_unsettled(CLIPTextModel(_config(plain, 1))), tokenizer=plain, **bare, **checks
        ),
        sd2=StableDiffusionPipeline(
            text_encoder=_unsettled(CLIPTextModel(_config(padded, 2))), tokenizer=padded, **bare, **checks
        ),
        sdxl=StableDiffusionXLPipeline(
            text_encoder=_unsettled(CLIPTextModel(_config(plain, 3))),
            tokenizer=plain,
            text_encoder_2=_unsettled(
                CLIPTextModelWithProjection(_config(padded, 4, hidden_size=48, projection_dim=24))
            ),
            tokenizer_2=padded,
            **bare,
        ),
    )
