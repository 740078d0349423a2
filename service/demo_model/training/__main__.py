"""`python -m service.demo_model.training`: makes the model that ships, from the pictures' download to its report.

`all` does everything in the time given; each stage can also be run alone. Whatever a stage wrote to the cache is
kept, so an interrupted run goes on where it stopped, and a longer `--minutes` continues a finished one.
"""

from pathlib import Path
from typing import Annotated

import typer

from . import autoencoder as autoencoders
from . import evaluate, text
from .workshop import Workshop, console

FOLDER = Path(__file__).resolve().parent.parent
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Cache = Annotated[Path, typer.Option(help="Folder for downloads, latents and checkpoints (about 2 GB).")]
Minutes = Annotated[
    float, typer.Option(help="Minutes this stage may have trained in all, earlier runs included.")
]
Output = Annotated[Path, typer.Option(help="The model's folder.")]


@app.command("autoencoder")
def train_autoencoder(cache: Cache, minutes: Minutes = 15) -> None:
    """Trains the autoencoder."""
    shop = Workshop(cache)
    autoencoders.train(shop.pictures, cache / "autoencoder.pt", minutes)


@app.command("text")
def train_text(cache: Cache, minutes: Minutes = 16) -> None:
    """Trains the tokenizer and the text encoder."""
    shop = Workshop(cache)
    layout = text.layouts(shop.pictures, autoencoders.load(cache / "autoencoder.pt"))
    text.train(shop.captioner, shop.pictures, layout, shop.tokenizer(), cache / "text.pt", minutes)


@app.command("unet")
def train_unet(
    cache: Cache,
    minutes: Minutes = 66,
    output: Output = FOLDER,
    entries: Annotated[int, typer.Option(help="Composites that are encoded before it trains.")] = 1236,
    sizes: Annotated[bool, typer.Option(help="In the last quarter train at 256x256 and 768x768 too.")] = True,
) -> None:
    """Trains the UNet; writes the model's folder whenever it saves a checkpoint."""
    Workshop(cache).train_unet(minutes, output, entries, sizes)


@app.command("export")
def export_folder(cache: Cache, output: Output = FOLDER) -> None:
    """Writes the model's folder from the checkpoints in the cache."""
    Workshop(cache).export(output)


@app.command("evaluate")
def evaluate_folder(
    cache: Cache,
    output: Output = FOLDER,
    subjects: Annotated[int, typer.Option(help="Subjects measured at most.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Pictures of each.")] = 3,
    synonyms: Annotated[int, typer.Option(help="Keywords measured.")] = 80,
    minutes: Annotated[
        float, typer.Option(help="Stop drawing after this time and report what there is.")
    ] = 60,
) -> None:
    """Measures the model and writes `evaluation.json` and `sheet.webp` beside it."""
    shop = Workshop(cache)
    report = evaluate.evaluate(output, shop.subjects, shop.pictures, subjects, seeds, synonyms, minutes)
    evaluate.write(report, output / "evaluation.json")
    console.print(report)
    evaluate.sheet(output, output / "sheet.webp")


@app.command("all")
def everything(
    cache: Cache,
    minutes: Annotated[float, typer.Option(help="Minutes of training in all.")] = 97,
    output: Output = FOLDER,
) -> None:
    """Downloads, trains everything, writes the folder and measures it."""
    train_autoencoder(cache, minutes * 0.15)
    if not (cache / "text.pt").exists():
        train_text(cache, minutes * 0.16)
    train_unet(cache, minutes * 0.69, output)
    evaluate_folder(cache, output)


if __name__ == "__main__":
    app()
