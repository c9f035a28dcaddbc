"""UC Merced Land Use: 21 class folders of 100 aerial images (Yang and Newsam 2010).

doi:10.1145/1869790.1869829. Most images are 256 x 256 pixels, 44 are slightly smaller.
"""

from __future__ import annotations

from pathlib import Path

from featstore.datasets.folder import FolderSource

CLASSES = (
    "agricultural",
    "airplane",
    "baseballdiamond",
    "beach",
    "buildings",
    "chaparral",
    "denseresidential",
    "forest",
    "freeway",
    "golfcourse",
    "harbor",
    "intersection",
    "mediumresidential",
    "mobilehomepark",
    "overpass",
    "parkinglot",
    "river",
    "runway",
    "sparseresidential",
    "storagetanks",
    "tenniscourt",
)

FOLDER = "UCMerced_LandUse"
IMAGES = f"{FOLDER}/Images"
URLS = (
    "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/main/UCMerced_LandUse.zip",
    "http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip",
)
MD5 = "md5:5b7ec56793786b6dc8a908e8854ac0e4"


class UcMercedSource(FolderSource):
    """UC Merced's images, of which 70 % of each class are drawn for training.

    Parameters
    ----------
    root : Path
        The folder ``Images``, which holds the 21 class folders.
    seed : int
        Seeds the split; the dataset has no official one.
    """

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed, name="ucmerced", title="ucmerced", expected=CLASSES)
