"""Grids: rows and columns as A1111 counts them, captions that stand beside their cells."""

import numpy as np
import pytest

from service.core.errors import BadRequest
from service.core.pixels import Pixels
from service.imaging.decode import decode_image, to_rgb
from service.imaging.formats import encode_base64
from service.imaging.grid import Caption, annotate, make_grid, matrix_captions, rows_of
from service.imaging.preview import make_preview


def plain(value: int, width: int = 40, height: int = 30) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("count", "rows", "batch_size", "prevent", "expected"),
    [
        (1, -1, 1, False, 1),
        (4, -1, 1, False, 2),
        (5, -1, 1, False, 2),
        (7, -1, 1, False, 3),
        (7, -1, 1, True, 1),
        (12, -1, 1, True, 3),
        (8, 0, 4, False, 4),
        (8, 3, 4, False, 3),
        (2, 9, 1, False, 2),
    ],
)
def test_rows(count: int, rows: int, batch_size: int, prevent: bool, expected: int) -> None:
    assert rows_of(count, rows, batch_size, prevent) == expected


def test_cells_are_filled_row_by_row() -> None:
    grid = make_grid([plain(value) for value in (10, 20, 30, 40, 50)], rows=2, margin=4)
    assert grid.shape == (64, 128, 3)
    assert grid[15, [20, 64, 108], 0].tolist() == [10, 20, 30]
    assert grid[49, [20, 64, 108], 0].tolist() == [40, 50, 255]
    assert grid[15, 42, 0] == 255


def test_images_of_several_sizes_and_kinds() -> None:
    grid = make_grid([plain(10, 20, 10), np.full((30, 10, 4), 60, np.uint8)], rows=1, background="#000000")
    assert grid.shape == (30, 40, 3)
    assert grid[25, 15].tolist() == [0, 0, 0]
    assert grid[25, 25].tolist() == [60, 60, 60]


def test_grids_that_are_too_large() -> None:
    with pytest.raises(BadRequest, match="at most 1,000 are made"):
        make_grid([plain(0)] * 4, rows=2, max_pixels=1000)
    with pytest.raises(BadRequest, match="at most 5,000 are made"):
        annotate(make_grid([plain(0)] * 4, 2), [[Caption("a")]] * 2, [[Caption("b")]] * 2, max_pixels=5000)


def test_matrix_captions() -> None:
    columns, rows = matrix_captions(["a", "b", "c"])
    assert [[(c.text, c.active) for c in captions] for captions in columns] == [
        [("a", False), ("b", False)],
        [("a", True), ("b", False)],
        [("a", False), ("b", True)],
        [("a", True), ("b", True)],
    ]
    assert rows == [[Caption("c", False)], [Caption("c", True)]]
    assert matrix_captions([]) == ([[]], [[]])


def dark(part: Pixels) -> bool:
    return bool((part < 128).any())


def test_captions_stand_beside_their_cells() -> None:
    cells = make_grid([plain(200, 200, 160)] * 4, rows=2)
    sheet = annotate(cells, [[Caption("left")], [Caption("right")]], [[Caption("upper")], [Caption("")]])
    top, left = sheet.shape[0] - cells.shape[0], sheet.shape[1] - cells.shape[1]
    assert np.array_equal(sheet[top:, left:], cells)
    assert dark(sheet[:top, left : left + 200])
    assert dark(sheet[:top, left + 200 :])
    assert not dark(sheet[:top, :left])
    assert dark(sheet[top : top + 160, :left])
    assert not dark(sheet[top + 160 :, :left])


def test_without_row_captions_there_is_no_left_edge() -> None:
    cells = make_grid([plain(200, 200, 160)] * 2, rows=1)
    sheet = annotate(cells, [[Caption("a")], [Caption("b")]], [[Caption("")]])
    assert sheet.shape[1] == cells.shape[1]
    assert np.array_equal(annotate(cells, [[], []], [[]]), cells)


def test_inactive_captions_are_grey() -> None:
    cells = make_grid([plain(255, 200, 160)], rows=1)
    active = annotate(cells, [[Caption("word")]], [[]])
    inactive = annotate(cells, [[Caption("word", active=False)]], [[]])
    assert active.min() < 50
    assert inactive.min() >= 0x99 - 1


def test_long_captions_wrap_and_shrink() -> None:
    cells = make_grid([plain(200, 128, 96)] * 4, rows=2)
    text = "a very long caption of many words that wraps " * 4
    sheet = annotate(
        cells, [[Caption(text)], [Caption("x" * 90)]], [[Caption(text)], [Caption("日本 ümlaut")]]
    )
    assert sheet.shape[1] == cells.shape[1] + 96
    assert sheet.shape[0] > cells.shape[0]
    huge = annotate(cells, [[Caption("word " * 100_000)], []], [[], []])
    assert huge.shape[0] < 3000


def test_previews_are_small() -> None:
    gradient = np.linspace(0, 255, 1024 * 768 * 3).reshape(768, 1024, 3).astype(np.uint8)
    preview = make_preview(gradient, largest_side=128)
    assert (preview.width, preview.height, preview.media_type) == (128, 96, "image/jpeg")
    shown = to_rgb(decode_image(preview.data_uri, 1_000_000))
    assert shown.shape == (96, 128, 3)
    assert np.abs(shown.astype(int)[::8, ::8] - gradient[4::64, 4::64]).mean() < 12
    small = make_preview(plain(99, 8, 4), "png")
    assert np.array_equal(to_rgb(decode_image(small.base64, 100)), plain(99, 8, 4))
    assert make_preview(np.zeros((1, 4000, 3), np.uint8), "webp").width == 512
    assert encode_base64(b"") == ""
