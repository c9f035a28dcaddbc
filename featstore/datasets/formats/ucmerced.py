"""Read Land Use: 21 class folders of 100 aerial images (Yang and Newsam 2010).

doi:10.1145/1869790.1869829. Most images are 256 x 256 pixels, 44 are slightly smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from featstore.datasets.formats.folder import FolderSource
from featstore.errors import DatasetError
from featstore.io.downloads import fetch_first, unzip
from featstore.io.files import sync_folder, sync_tree
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


URLS = (
    "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/main/UCMerced_LandUse.zip",
    "http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip",
)


MD5 = "md5:5b7ec56793786b6dc8a908e8854ac0e4"


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


def download(
    root: Path,
    progress: Progress = SILENT,
    *,
    urls: Sequence[str] = URLS,
    known_hash: str = MD5,
) -> Path:
    """Fetch the dataset (332 MB) and unpack it into `root`, unless it exists; return ``Images``.

    The `urls` are tried in turn, and `known_hash` is the archive's checksum. When it can't be
    fetched, DownloadError names the URLs, what happened, and how to fetch it by hand. An
    incomplete folder in the way, or an archive of something else, is a DatasetError.
    """
    images = root / IMAGES
    if images.is_dir():
        return images
    if images.parent.exists():
        raise DatasetError(f"{images.parent} exists but has no folder Images; move it away.")
    # One that was put there by hand is the user's.
    is_own = not (root / f"{FOLDER}.zip").exists()
    archive = fetch_first(urls, root / f"{FOLDER}.zip", known_hash, progress)
    progress.say(f"unpacking {archive}")
    with TemporaryDirectory(dir=root, prefix=f".{FOLDER}-") as temporary:
        unpacked = unzip(archive, Path(temporary) / "content")
        if not (unpacked / IMAGES).is_dir():
            raise DatasetError(f"{archive}: holds no folder {IMAGES}.")
        sync_tree(unpacked)
        (unpacked / FOLDER).rename(images.parent)
    if is_own:
        # After a power loss, all images or the archive must be there.
        sync_folder(root)
        archive.unlink()
    return images
