"""Captions: a tiny random BLIP in the folder that SD_CAPTIONER names, and what is said where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration

from service.core.errors import ModelLoadError
from service.engine import device
from service.engine.captioner import Captioner
from service.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioning model with random weights, in the layout that transformers writes."""
    path = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "dog", "cat", "on", "grass", "red"]
    (path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(path / "vocab.txt"), bos_token="[DEC]").save_pretrained(path)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **small, "encoder_hidden_size": 16, "vocab_size": len(words), "bos_token_id": 5, "eos_token_id": 3,
            "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64, "projection_dim": 16,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(3)
    BlipForConditionalGeneration(config).save_pretrained(path)
    processor = {
        "image_processor_type": "BlipImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True,
        "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "processor_class": "BlipProcessor",
    }  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def test_a_caption_is_words_of_the_model_and_the_same_each_time(folder: Path) -> None:
    captioner = Captioner(folder, device.choose(Settings.read()))
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    caption = captioner.caption(image)
    assert caption == captioner.caption(image)
    assert all(word in {"a", "dog", "cat", "on", "grass", "red", "[unk]"} for word in caption.lower().split())


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="SD_CAPTIONER"):
        Captioner(tmp_path, device.choose(Settings.read()))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        Captioner(tmp_path, device.choose(Settings.read()))
