"""Find identical images of a dataset.

Only exact copies count: an image that was saved again, at another size or in another format, is
another image.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.image_bytes import ImageBytes, ImageItem
from featstore.environment import available_cores
from featstore.errors import ImageError
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import SILENT, Progress

if TYPE_CHECKING:
    from featstore.datasets.base import ArrayDataset, Dataset, FileDataset

PIXELS_DIGEST_NBYTES = 16
"""Bytes of a digest of pixels."""


HASHED_NBYTES = 2**20
"""Bytes of pixels that a thread reads and hashes at a time; bounds the memory."""


def find_first_rows(
    dataset: Dataset, cache: FingerprintCache, progress: Progress = SILENT
) -> NDArray[np.int64]:
    """Return for each sample the row of the first identical one, (n_samples,) int64.

    A row without an earlier copy has its own number; see :func:`image_digests`.
    """
    return first_of_each(image_digests(dataset, cache, progress))


def first_of_each(digests: NDArray[np.void]) -> NDArray[np.int64]:
    """Return for each digest the position of the first equal one, (n,) int64."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64, copy=False)


def image_digests(
    dataset: Dataset, cache: FingerprintCache, progress: Progress = SILENT
) -> NDArray[np.void]:
    """Return a digest of each image, (n_samples,), the same for identical images of all datasets.

    Encoded images are identical when they are, byte for byte, in files and in tables; images in
    arrays when all their pixels are, in all bands. Images that can't be read are copies of none.
    Hashes that `cache` holds of the files are not computed again.
    """
    # Stage two imports this module, and decodes no images.
    from featstore.datasets.base import ArrayDataset, FileDataset

    if isinstance(dataset, ArrayDataset):
        return _pixel_hashes(dataset, progress)
    if isinstance(dataset, FileDataset):
        return _file_hashes(dataset, cache, progress)
    raise TypeError(f"images of a {type(dataset).__name__} can't be compared")


def _file_hashes(
    dataset: FileDataset, cache: FingerprintCache, progress: Progress
) -> NDArray[np.void]:
    # The cache keeps one list for all files together, so a subset's can't be asked for alone.
    paths = [str(path) for _, path in dataset.files()]
    hashes = dict(zip(paths, cache.sha256(paths, progress), strict=True))

    def key(image: ImageItem) -> bytes:
        if not isinstance(image, ImageBytes):
            return bytes.fromhex(hashes[str(image)])
        try:
            return sha256(image.open().read()).digest()
        except ImageError:
            return sha256(image.name.encode()).digest()

    return np.fromiter(map(key, dataset.paths), f"V{sha256().digest_size}", len(dataset.paths))


def _pixel_hashes(dataset: ArrayDataset, progress: Progress) -> NDArray[np.void]:
    step = max(1, HASHED_NBYTES // math.prod(dataset.image_shape))

    def digest(content: Any) -> bytes:
        return blake2b(content, digest_size=PIXELS_DIGEST_NBYTES).digest()

    def hashes(start: int, stop: int) -> bytes:
        try:
            images = dataset.read_block(start, stop)
        except ImageError:
            if stop - start == 1:
                return digest(f"row {start}".encode())
            return b"".join(hashes(row, row + 1) for row in range(start, stop))
        return b"".join(map(digest, images))

    def block_hashes(start: int) -> bytes:
        return hashes(start, min(start + step, len(dataset)))

    # Hundreds of millions of images would not fit as an object each.
    found = bytearray()
    progress.start("Looking for identical images", len(dataset), "images")
    try:
        with ThreadPoolExecutor(min(8, available_cores())) as pool:
            for block in pool.map(block_hashes, range(0, len(dataset), step)):
                found += block
                progress.advance(len(block) // PIXELS_DIGEST_NBYTES)
    finally:
        progress.stop()
    return np.frombuffer(found, f"V{PIXELS_DIGEST_NBYTES}")
