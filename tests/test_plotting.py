import errno
import io
import re
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from featstore.errors import ConfigError, StoreError
from featstore.fitting.curve_chart import draw_learning
from featstore.fitting.learning_curve import Point
from featstore.plotting import check_png, to_png, to_svg, write_figure, write_png
from featstore.report.charts import Projection, draw_projection, draw_scores
from featstore.runs.charts import draw_confusion, draw_curves


def curve(n_epochs, held_out=False):
    return {
        "loss": np.exp(-np.arange(n_epochs) / 9).tolist(),
        "accuracy": (1 - np.exp(-np.arange(n_epochs) / 5)).tolist(),
        "validation_accuracy": [0.5] * n_epochs if held_out else [],
    }


def boxes(fig, artists):
    if not hasattr(fig.canvas, "get_renderer"):
        to_png(fig)
    renderer = fig.canvas.get_renderer()
    return [artist.get_window_extent(renderer) for artist in artists]


def test_names_are_drawn_as_they_are_whatever_they_look_like():
    names = [r"$\foo$", "_other", "price $5_a^b$"]
    confusion = draw_confusion(np.eye(3, dtype=int).tolist(), names)
    to_png(confusion)
    to_svg(confusion, "confusion", "a matrix")
    points = Projection(np.eye(3, 2, dtype=np.float32), "PCA", ("one", "two"))
    fig = draw_projection(points, np.arange(3), names)
    to_png(fig)
    shown = [text.get_text() for text in fig.legends[0].get_texts()]
    assert shown == [r"\$\foo\$", " _other", r"price \$5_a^b\$"]


CLASSES = {"task": "classification"}


def test_names_of_lines_and_bars_are_drawn_as_they_are_too():
    names = [r"$\foo$", "_other"]
    learning = draw_learning([(name, [Point(10, (0.5,), (0.6,))]) for name in names])
    for fig in (draw_curves({name: curve(2) for name in names}), learning):
        to_png(fig)
        shown = [text.get_text() for text in fig.legends[0].get_texts()]
        assert shown == [r"\$\foo\$", " _other"]
    line = {"name": r"$\foo$ x · lda", "accuracy": 0.5, "majority_accuracy": 0.3}
    to_png(draw_scores([CLASSES | line]))


def test_no_two_classes_look_alike():
    points = Projection(np.zeros((120, 2), np.float32), "PCA", ("one", "two"))
    fig = draw_projection(points, np.arange(120), [f"c{i}" for i in range(120)])
    to_png(fig)
    drawn = {
        (*drawn.get_facecolor()[0].tolist(), drawn.get_paths()[0].vertices.tobytes())
        for drawn in fig.axes[0].collections
    }
    assert len(drawn) == 120


@pytest.mark.parametrize("n_classes", [2, 4, 45])
def test_labels_of_a_confusion_matrix_do_not_run_into_each_other(n_classes):
    names = [f"thermal_power_station_{i}" for i in range(n_classes)]
    fig = draw_confusion((np.eye(n_classes, dtype=int) * 25_000).tolist(), names)
    ax = fig.axes[0]
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        extents = boxes(fig, labels)
        assert not any(a.overlaps(b) for a, b in zip(extents, extents[1:], strict=False))
    counts = [text for text in ax.texts if text.get_text() == "25,000"]
    assert len(counts) == (n_classes if n_classes <= 21 else 0)
    cell = ax.get_window_extent().width / n_classes
    assert all(box.width < cell for box in boxes(fig, counts))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")


def test_colour_is_the_share_of_the_row_and_an_empty_row_is_blank():
    fig = draw_confusion([[3, 1], [0, 0]], ["a", "b"])
    np.testing.assert_allclose(fig.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])


def test_places_where_no_png_can_be_are_refused_beforehand(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    check_png(tmp_path / "new folder" / "figure.PNG", "--out")
    with pytest.raises(ConfigError, match="is a folder. Name a file: --out "):
        check_png(tmp_path, "--out")
    for name in ("lc.svg", "lc"):
        with pytest.raises(ConfigError, match=r"does not end in \.png, .*Write: --out lc\.png"):
            check_png(name, "--out")
    for name in ("file/x.png", "file/new/x.png"):
        with pytest.raises(StoreError, match=r"x\.png can't be written: .*file is a file"):
            check_png(tmp_path / name, "--out")


def test_a_png_is_a_png():
    image = Image.open(io.BytesIO(to_png(draw_confusion([[3, 1], [1, 3]], ["a", "b"]))))
    assert image.format == "PNG"
    assert min(image.size) > 300
    # The paper is white, and something is drawn on it.
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert len(image.convert("RGB").getcolors(10**6)) > 10


def test_curves_have_units_and_a_legend_that_covers_nothing():
    fig = draw_curves({"alexnet": curve(250, held_out=True), "vgg19": curve(100)})
    left, right = fig.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("training accuracy (%)", "training loss")
    assert left.get_xlabel() == right.get_xlabel() == "epoch"
    assert left.lines[0].get_ydata().max() > 99
    assert left.get_ylim()[1] == 100
    assert left.get_xlim() == right.get_xlim() == (0, 250)
    assert left.lines[0].get_xdata()[0] == 1
    assert len(left.lines) == 3
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["alexnet", "alexnet, held out", "vgg19"]
    (box,) = boxes(fig, [legend])
    assert not any(box.overlaps(ax.get_window_extent()) for ax in fig.axes)


def test_a_single_epoch_is_a_visible_point_and_a_single_curve_needs_no_legend():
    fig = draw_curves({"mlp": curve(1)})
    assert fig.axes[0].lines[0].get_marker() == "o"
    assert not fig.legends


def test_losses_of_several_magnitudes_get_a_logarithmic_axis():
    steep = {**curve(3), "loss": [1e3, 1.0, 1e-2]}
    assert draw_curves({"sgd": steep}).axes[1].get_yscale() == "log"
    zero = {**curve(3), "loss": [1e3, 1.0, 0.0]}
    assert draw_curves({"sgd": zero}).axes[1].get_yscale() == "linear"


def test_bars_keep_their_order_and_whole_names_and_the_axis_ends_at_100():
    names = [
        "pixelstats stats · lda",
        "mobilenet_v2 features.0+features.13.conv.2+classifier.1 · logreg (C=10)",
        "resnet50 fc1000 · lda",
    ]
    lines = [
        {"name": name, "accuracy": accuracy, "majority_accuracy": 0.25, "accuracy_deviation": d}
        for name, accuracy, d in zip(names, (0.75, 1.0, 0.5), (0.0, 0.0, 0.1), strict=True)
    ]
    fig = draw_scores([CLASSES | line for line in lines])
    ax = fig.axes[0]
    assert [bar.get_width() for bar in ax.patches] == [75.0, 100.0, 50.0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[1] == (
        "mobilenet_v2 features.0+features.13.conv.2+\nclassifier.1 · logreg (C=10)"
    )
    assert [labels[0], labels[2]] == [names[0], names[2]]
    assert ax.get_xlim() == (0, 100)
    extents = boxes(fig, ax.get_yticklabels())
    assert not any(a.overlaps(b) for a, b in zip(extents, extents[1:], strict=False))


def test_svg_is_well_formed_escaped_and_takes_the_pages_colour():
    names = ['<script>alert("1")</script>', "b & c"]
    fig = draw_confusion([[3, 1], [1, 3]], names)
    svg = to_svg(fig, "run-1", 'a <b> & "c"')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'a <b> & "c"'
    assert root.get("role") == "img"
    assert "<script" not in svg
    assert "currentColor" in svg
    assert "#1d2327" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert ids
    assert all(one.startswith("run-1-") for one in ids)
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
    assert set(used) <= set(ids)
    assert not re.search(r'(?:href|src)="https?:', svg)


def test_names_that_look_like_svg_stay_as_they_are():
    names = ['id="x', 'href="#1d2327', "font: 'a sans-serif"]
    root = ET.fromstring(to_svg(draw_confusion(np.eye(3, dtype=int).tolist(), names), "n", "d"))
    assert set(names) <= set(root.itertext())


def test_the_same_figure_gives_the_same_svg():
    assert len({to_svg(draw_curves({"mlp": curve(9)}), "x", "y") for _ in range(2)}) == 1


def test_dollar_signs_in_names_are_no_formula():
    fig = draw_confusion([[3, 1], [1, 3]], ["a$b", "$x^2$"])
    assert "$x^2$" in to_svg(fig, "n", "d")


def test_signs_that_the_font_lacks_are_no_warning(tmp_path):
    with warnings.catch_warnings(action="error"):
        fig = draw_confusion([[3, 1], [1, 3]], ["水域", "b"])
        to_png(fig)
        write_figure(fig, tmp_path / "confusion")
        assert "水域" in to_svg(fig, "n", "d")


def test_a_figure_that_can_not_be_written_is_named_and_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def full(_, data):
        raise OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/.figure.tmp")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=f"^{path} can't be written: No space left on device"):
        write_png(Figure(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    assert path.read_bytes() == b"old"
