"""Prompt matrix: ``base|one|two`` makes every combination of the optional parts, and a grid of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.series import Composed, Grid, ScriptPlan, raise_if_too_many, with_prompts
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Series
from service.core.pixels import Pixels
from service.imaging.grid import annotate, make_grid, matrix_captions
from service.settings import Settings

NAME: Final = "prompt matrix"
MOST_PARTS: Final = 8


def plan(request: GenerationRequest, arguments: Arguments, settings: Settings) -> ScriptPlan:
    """Arguments: put the optional parts first, different seed for each picture, "positive" or "negative" prompt,
    "comma" or "space" between parts, margin of the grid in pixels."""
    first = arguments.flag(0, False)
    different_seeds = arguments.flag(1, False)
    negative = arguments.choice(2, "prompt type", ("positive", "negative"), "positive") == "negative"
    glue = ", " if arguments.choice(3, "delimiter", ("comma", "space"), "comma") == "comma" else " "
    margin = int(arguments.number(4, "margin", 0, 0, 500))
    original = request.negative_prompt if negative else request.prompt
    base, *parts = original.split("|", MOST_PARTS + 1)
    parts = [part.strip() for part in parts]
    if len(parts) > MOST_PARTS:
        raise BadRequest(
            f"{NAME}: the prompt has {original.count('|')} optional parts; at most {MOST_PARTS} are taken."
        )
    raise_if_too_many(2 ** len(parts), settings)
    largest_grid = settings.max_image_pixels
    requests = []
    for combination in range(2 ** len(parts)):
        chosen = [part for bit, part in enumerate(parts) if combination >> bit & 1]
        text = glue.join([*chosen, base.strip()] if first else [base.strip(), *chosen])
        one = with_prompts(
            request, request.prompt if negative else text, text if negative else request.negative_prompt
        )
        one = replace(one, batch_count=1, batch_size=1, subseed=request.subseed + combination)
        requests.append(replace(one, seed=request.seed + combination) if different_seeds else one)

    def compose(results: Sequence[GenerationResult]) -> Composed:
        images: list[Pixels] = [image for result in results for image in result.images]
        if len(images) != len(requests):  # interrupted: no complete grid
            return Composed((), tuple(results))
        columns, rows = matrix_captions(parts)
        grid = make_grid(images, len(rows), margin=margin, max_pixels=largest_grid)
        sheet = annotate(grid, columns, rows, margin=margin, max_pixels=largest_grid)
        return Composed((Grid(sheet),), tuple(results))

    return ScriptPlan(Series(tuple(requests)), compose=compose)
