import pytest

from featstore.datasets.band_names import choose_bands
from featstore.errors import ConfigError

RGB = ("red", "green", "blue")
RGBN = (*RGB, "nir")
PLAIN = ("gray", *["undefined"] * 5)


def choose(names, descriptions=(), meanings=()):
    n = max(len(descriptions), len(meanings))
    descriptions = descriptions or [None] * n
    meanings = meanings or PLAIN[:n]
    return choose_bands("scene.tif", names, descriptions, meanings)


@pytest.mark.parametrize(
    ("names", "descriptions", "meanings", "bands"),
    [
        (RGB, (), RGB, (1, 2, 3)),
        (RGB, (), ("blue", "green", "red"), (3, 2, 1)),
        (RGB, ("B2: Blue", "B3: Green", "B4: Red", "B8: NIR"), (), (3, 2, 1)),
        (RGBN, ("nir", "r", "g", "b"), (), (2, 3, 4, 1)),
        (RGBN, ("Red", "Green", "Blue", "Near infrared"), (*RGB, "alpha"), (1, 2, 3, 4)),
        (RGBN, (), (*RGB, "undefined", "alpha"), (1, 2, 3, 4)),
        (RGBN, (), (*RGB, "alpha", "undefined"), (1, 2, 3, 5)),
        (RGB, (), ("nir", *RGB), (2, 3, 4)),
        (RGB, ("nir", None, None, None), (), (2, 3, 4)),
        (RGB, (), PLAIN[:3], (1, 2, 3)),
        (RGB, ("Reduced", "greenness", "blueprint"), (), (1, 2, 3)),
        (("pan",), (), ("gray",), (1,)),
    ],
)
def test_bands_are_taken_by_the_names_that_the_file_gives(names, descriptions, meanings, bands):
    assert choose(names, descriptions, meanings)[0] == bands


@pytest.mark.parametrize(
    ("names", "meanings", "text"),
    [
        (RGB, RGB, ""),
        (RGB, PLAIN[:3], ""),
        (RGB, (*RGB, "alpha"), ""),
        (RGB, PLAIN[:4], "Bands 1, 2, 3 are taken as red, green, blue. Others: --bands"),
        (RGB, RGB[::-1], "Bands 3, 2, 1 are taken as red, green, blue. Others: --bands"),
        (RGBN, (*RGB, "alpha"), "Band 4 is tagged alpha and taken as nir. Others: --bands"),
    ],
)
def test_a_guess_is_said(names, meanings, text):
    assert choose(names, (), meanings)[1] == text


@pytest.mark.parametrize(
    ("names", "descriptions", "meanings", "message"),
    [
        (RGB, ("blue", "green", "red"), RGB, "band 1 is described as blue and tagged as red"),
        (RGB, ("red", "red", "green", "blue"), (), "calls bands 1 and 2 red"),
        (RGBN, (), (*RGB, "nir", "red"), "calls bands 1 and 5 red"),
        (RGB, ("red", "green", "nir"), (), "No band of scene.tif is blue"),
        (RGB, (), PLAIN, f"has {len(PLAIN)} bands, and does not name red, green, blue"),
    ],
)
def test_what_contradicts_itself_is_refused(names, descriptions, meanings, message):
    with pytest.raises(ConfigError, match=message):
        choose(names, descriptions, meanings)
