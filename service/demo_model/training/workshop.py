"""The cache folder of a training, and what each stage finds and leaves there."""

import json
import random
from pathlib import Path

from rich.console import Console
from transformers import CLIPTokenizer

from . import autoencoder as autoencoders
from . import data, export, text
from . import tokenizer as tokenizers
from . import unet as unets
from .captions import Captioner

console = Console()


class Workshop:
    """The cache folder: what each stage left there."""

    def __init__(self, cache: Path) -> None:
        data.fetch(cache)
        self.cache = cache
        self.subjects = data.load_subjects(cache)
        self.pictures = data.load_pictures(cache, self.subjects)
        self.captioner = Captioner(self.subjects)
        console.print(f"{len(self.subjects)} subjects")

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, trained on first use."""
        folder = self.cache / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            tokenizers.save(tokenizers.train(self.captioner), folder)
        loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return loaded

    def bank(self, canvas: int, entries: int) -> unets.LatentBank:
        """The latents of one canvas size, encoded on first use."""
        model = autoencoders.load(self.cache / "autoencoder.pt")
        rng = random.Random(canvas)
        bank = unets.LatentBank(self.pictures, model, rng, canvas)
        stored = self.cache / f"latents-{canvas}.pt"
        if stored.exists():
            bank.load(stored)
        else:
            bank.fill(entries)
            bank.save(stored)
        return bank

    def scaling(self) -> float:
        """1 / deviation of the latents, so that the UNet sees deviation 1."""
        stored = self.cache / "scaling.json"
        if not stored.exists():
            model = autoencoders.load(self.cache / "autoencoder.pt")
            bank = unets.LatentBank(self.pictures, model, random.Random(0))
            bank.fill(96)
            stored.write_text(json.dumps(round(1 / float(bank.latents.float().std()), 5)))
        return float(json.loads(stored.read_text()))

    def export(self, output: Path) -> None:
        """Writes the model's folder from the checkpoints there are."""
        tokenizer = self.tokenizer()
        parts = export.pipeline(
            autoencoders.load(self.cache / "autoencoder.pt"),
            text.load(tokenizer, self.cache / "text.pt"),
            unets.load(self.cache / "unet.pt"),
            tokenizer,
        )
        export.export(parts, self.scaling(), output)

    def train_unet(self, minutes: float, output: Path, entries: int, sizes: bool) -> None:
        """Makes latents and embedded captions, then trains the UNet, writing `output` with every checkpoint."""
        tokenizer = self.tokenizer()
        encoder = text.load(tokenizer, self.cache / "text.pt")
        pool = unets.CaptionPool(
            self.captioner, encoder, tokenizer, random.Random(0), stored=self.cache / "captions.pt"
        )
        unets.train(
            self.bank(512, entries),
            lambda: [self.bank(256, 400), self.bank(768, 200)] if sizes else [],
            pool,
            self.cache / "unet.pt",
            minutes,
            self.scaling(),
            lambda: self.export(output),
        )
