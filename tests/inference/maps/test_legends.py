from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from featstore.inference.maps.preview import class_colours
from featstore.plotting import PALETTE


@pytest.mark.parametrize("n_classes", [1, 7, 8, 45, 254, 2000, 9000])
def test_every_class_has_a_colour_of_its_own(n_classes):
    colours = class_colours(n_classes)
    assert len(set(colours)) == len(colours) == n_classes
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_the_first_are_the_palette_and_more_classes_change_none():
    palette = [to_hex([value / 255 for value in colour]) for colour in class_colours(7)]
    assert palette == list(PALETTE)
    assert class_colours(45)[:20] == class_colours(20)


def test_no_two_of_twenty_are_alike():
    colours = np.array(class_colours(20), float)
    gaps = np.linalg.norm(colours[:, None] - colours, axis=2) + 1000 * np.eye(20)
    assert gaps.min() > 35
    # Neither ink nor paper.
    assert np.linalg.norm(colours - 255, axis=1).min() > 60
    assert np.linalg.norm(colours, axis=1).min() > 60
