"""The cache folder of a training, and what each stage finds and leaves there."""

import random
from pathlib import Path

import torch
from rich.console import Console
from transformers import CLIPTokenizer

from . import autoencoder as autoencoders
from . import data, export, text
from . import tokenizer as tokenizers
from . import unet as unets
from .captions import Captioner
from .parallel import Peers

console = Console()


class Workshop:
    """The cache folder: what each stage left there."""

    def __init__(self, cache: Path, threads: int | None = 2) -> None:
        if threads:
            torch.set_num_threads(threads)
        data.fetch(cache)
        self.cache = cache
        self.subjects = data.load_subjects(cache)
        self.pictures = data.load_pictures(cache, self.subjects)
        self.captioner = Captioner(self.subjects)
        console.print(f"{len(self.subjects)} subjects")

    @property
    def weights(self) -> list[float]:
        """How often each subject is drawn."""
        return [subject.weight for subject in self.subjects]

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, trained on first use."""
        folder = self.cache / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            tokenizers.save(tokenizers.train(self.captioner), folder)
        loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return loaded

    def bank(self, rank: int, canvas: int, entries: int) -> unets.LatentBank:
        """The latents of one canvas size for one process, encoded on first use."""
        model = autoencoders.load(self.cache / "autoencoder.pt")
        rng = random.Random(canvas + rank)
        bank = unets.LatentBank(self.pictures, model, self.weights, rng, canvas)
        stored = self.cache / f"latents-{canvas}-{rank}.pt"
        if stored.exists():
            bank.load(stored)
        else:
            bank.fill(entries)
            bank.save(stored)
        return bank

    def scaling(self) -> float:
        """1 / deviation of the latents, so that the UNet sees deviation 1."""
        model = autoencoders.load(self.cache / "autoencoder.pt")
        bank = unets.LatentBank(self.pictures, model, self.weights, random.Random(0))
        bank.fill(96)
        return round(1 / float(bank.latents.float().std()), 5)

    def export(self, output: Path, scaling: float | None = None) -> None:
        """Writes the model's folder from the checkpoints there are."""
        tokenizer = self.tokenizer()
        decoder = self.cache / "decoder.pt"
        parts = export.pipeline(
            autoencoders.load(decoder if decoder.exists() else self.cache / "autoencoder.pt"),
            text.load(tokenizer, self.cache / "text.pt"),
            unets.load(self.cache / "unet.pt"),
            tokenizer,
        )
        export.export(parts, scaling or self.scaling(), output)


def train_unet(peers: Peers, cache: Path, minutes: float, output: Path, entries: int) -> None:
    """The work of one process: makes its own latents and captions, then trains with its peers."""
    shop = Workshop(cache, threads=None)
    tokenizer = shop.tokenizer()
    encoder = text.load(tokenizer, cache / "text.pt")
    scaling = shop.scaling()
    bank = shop.bank(peers.rank, 512, entries)
    pool = unets.CaptionPool(
        shop.captioner, encoder, tokenizer, random.Random(0), stored=cache / "captions.pt"
    )
    unets.train(
        bank,
        lambda: [shop.bank(peers.rank, 256, 300), shop.bank(peers.rank, 768, 150)],
        pool,
        cache / "unet.pt",
        minutes,
        scaling,
        peers,
        lambda: shop.export(output, scaling),
    )
