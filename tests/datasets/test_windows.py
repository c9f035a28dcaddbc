from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from featstore.datasets import windows
from featstore.datasets.windows import Grid, WindowSource, find_windows, mirrored


class Plain:
    """A scene in memory that notes what is read of it."""

    path = "plain.tif"
    names = ("red", "green", "blue")
    dtype = np.dtype(np.uint8)

    def __init__(self, height, width, present=None):
        shape = (3, height, width)
        self.pixels = np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)
        self.height, self.width = height, width
        self.present = present
        self.may_lack_pixels = present is not None
        self.sizes = []

    def read(self, top, left, height, width):
        assert 0 <= top < top + height <= self.height
        assert 0 <= left < left + width <= self.width
        self.sizes.append((height, width))
        part = (slice(top, top + height), slice(left, left + width))
        present = None if self.present is None else self.present[part]
        return self.pixels[:, *part], None if present is None or present.all() else present


def expected(scene, grid, cell):
    row, col = divmod(cell, grid.n_cols)
    rows = mirrored(grid.first_pixel(row), grid.window, scene.height)
    cols = mirrored(grid.first_pixel(col), grid.window, scene.width)
    return scene.pixels[:, rows][:, :, cols].transpose(1, 2, 0)


def test_mirrors_show_the_border_pixel_twice():
    assert mirrored(-3, 10, 4).tolist() == [2, 1, 0, 0, 1, 2, 3, 3, 2, 1]
    assert mirrored(-7, 4, 3).tolist() == [0, 0, 1, 2]
    assert mirrored(0, 3, 1).tolist() == [0, 0, 0]


def test_a_window_is_centred_on_its_cell():
    assert [Grid(100, 100, 20, 20).first_pixel(i) for i in (0, 1, 4)] == [0, 20, 80]
    assert [Grid(100, 100, 20, 10).first_pixel(i) for i in (0, 1, 9)] == [-5, 5, 85]
    assert [Grid(100, 100, 10, 20).first_pixel(i) for i in (0, 1)] == [5, 25]


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [(40, 60, 20, 20), (47, 65, 20, 20), (47, 65, 20, 7), (47, 65, 21, 8), (50, 50, 6, 9)],
)
@pytest.mark.parametrize("piece_nbytes", [1, 3 * 20 * 40, 2**20])
def test_windows_are_the_scenes_pixels_mirrored_at_its_border(
    height, width, window, stride, piece_nbytes, monkeypatch
):
    monkeypatch.setattr(windows, "PIECE_NBYTES", piece_nbytes)
    scene, grid = Plain(height, width), Grid(height, width, window, stride)
    dataset = find_windows(scene, grid)
    cells = dataset.rows
    assert dataset.image_shape == (window, window, 3)
    for start in range(0, len(dataset), 7):
        stop = min(start + 7, len(dataset))
        found = dataset.subset(np.arange(start, stop)).read_block(0, stop - start)
        assert found.flags.c_contiguous
        for image, cell in zip(found, cells[start:stop], strict=True):
            np.testing.assert_array_equal(image, expected(scene, grid, cell))


def test_cells_whose_middle_lies_beyond_the_scene_are_left_out():
    for size, kept in [(40, 2), (49, 2), (50, 3), (59, 3)]:
        dataset = find_windows(Plain(size, 20), Grid(size, 20, 20, 20))
        assert dataset.rows.tolist() == list(range(kept))
    assert len(find_windows(Plain(9, 9), Grid(9, 9, 20, 20))) == 0
    # Corners and borders of finer grids stay.
    assert len(find_windows(Plain(40, 40), Grid(40, 40, 20, 4))) == 100


def test_cells_without_data_are_left_out_and_holes_are_filled():
    present = np.ones((40, 60), bool)
    present[:20, :12] = False
    present[20:30, 20:40] = False
    present[:, 40:] = False
    scene, grid = Plain(40, 60, present), Grid(40, 60, 20, 20)
    dataset = find_windows(scene, grid)
    # The first lacks 60 %, the one in the middle of the second row just half.
    assert dataset.rows.tolist() == [1, 3, 4]
    image = dataset.read(2)
    pixels = expected(scene, grid, 4)
    np.testing.assert_array_equal(image[10:], pixels[10:])
    means = pixels[10:].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(image[:10], np.broadcast_to(means, (10, 20, 3)), atol=0.51)


def test_any_run_of_windows_knows_its_cells():
    rng = np.random.default_rng(1)
    present = np.kron(rng.random((9, 21)) < 0.4, np.ones((4, 4))).astype(bool)
    present[12:20] = False
    dataset = find_windows(Plain(36, 84, present), Grid(36, 84, 4, 4))
    cells = np.flatnonzero(present[::4, ::4])
    assert len(dataset) == len(cells)
    for start in range(len(cells)):
        for stop in (start, start + 1, start + 9, len(cells)):
            np.testing.assert_array_equal(dataset.cells(start, stop), cells[start:stop])
    part = dataset.subset(np.arange(5, 20)).subset(np.array([1, 4]))
    assert part.rows.tolist() == cells[[6, 9]].tolist()
    assert part.labels.tolist() == [-1, -1]
    row, col = divmod(int(cells[9]), 21)
    assert part.sample_ids[1] == f"plain.tif, row {row} and column {col} of the cells"
    assert dataset.files()[0][0] == "plain.tif"
    assert dataset.identity() == {"name": "scene", "window": 4, "stride": 4}


def test_memory_holds_a_few_pieces_and_few_are_read_again(monkeypatch):
    monkeypatch.setattr(windows, "PIECE_NBYTES", 3 * 8 * 80)
    scene, grid = Plain(64, 800), Grid(64, 800, 8, 8)
    source = WindowSource(scene, grid)
    reads = [np.arange(start, start + 16) for start in range(0, grid.n_cells, 16)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(source.read_rows, reads))
    assert set(scene.sizes) == {(8, 80)}
    # Of 80 pieces those may be read again that two batches share.
    assert 80 <= len(scene.sizes) <= 80 + len(reads)
    assert len(source._pieces) <= windows.PIECES_KEPT


def test_threads_read_one_at_a_time(monkeypatch):
    scene, busy = Plain(64, 64), threading.Lock()
    original = scene.read

    def read(*part):
        assert busy.acquire(blocking=False)
        try:
            return original(*part)
        finally:
            busy.release()

    scene.read = read
    source = WindowSource(scene, Grid(64, 64, 8, 8))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.read_rows, np.arange(64).reshape(8, 8)))
