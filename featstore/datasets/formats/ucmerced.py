"""Read Land Use: 21 class folders of 100 aerial images (Yang and Newsam 2010).

doi:10.1145/1869790.1869829. Most images are 256 x 256 pixels, 44 are slightly smaller.
"""

from __future__ import annotations

from pathlib import Path

from featstore.datasets.formats import archives
from featstore.datasets.formats.archives import Archive
from featstore.datasets.formats.folder import FolderSource
from featstore.progress import SILENT, Progress

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


ARCHIVE = Archive(
    f"{FOLDER}.zip",
    (
        "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/main/UCMerced_LandUse.zip",
        "http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip",
    ),
    "md5:5b7ec56793786b6dc8a908e8854ac0e4",
    IMAGES,
    FOLDER,
)


class UcMercedSource(FolderSource):
    """UC Merced's images, in its folder ``Images``; 70 % of each class are drawn for training."""

    def __init__(self, root: Path, seed: int, *, follow_links: bool = False) -> None:
        super().__init__(
            root,
            seed,
            name="ucmerced",
            title="ucmerced",
            expected=CLASSES,
            follow_links=follow_links,
        )


def download(root: Path, progress: Progress = SILENT) -> Path:
    """Fetch the dataset and unpack it into `root`, unless it exists; return ``Images``."""
    return archives.download(root, FOLDER, ARCHIVE, progress)
