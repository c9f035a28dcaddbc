"""Take half precision only for networks whose features it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from featstore.datasets.base import Dataset
from featstore.datasets.loader import batches
from featstore.models.base import Layer
from featstore.models.network_extractor import NetworkExtractor
from featstore.progress import SILENT, Progress

MIN_COSINE = 0.999
"""Least cosine of a row in half precision with the same row in fp32."""


N_CHECKED = 16
"""Images, spread over the dataset, whose features are compared."""


def checked_precision(
    extractor: NetworkExtractor,
    layers: Sequence[Layer],
    dataset: Dataset,
    progress: Progress = SILENT,
) -> str:
    """Return the extractor's precision, or ``fp32`` where some images' features differ.

    They differ where the cosine of a row with the row in fp32 is below :data:`MIN_COSINE`. The
    cosine is kept: all later datasets get the same precision of the network on this machine.
    """
    kept = extractor.cache_file(layers, "cosine")
    cosine = kept.read_json()
    if cosine is None:
        n = min(N_CHECKED, len(dataset))
        # Neighbours are often of one class.
        rows = [len(dataset) * i // n for i in range(n)]
        found = list(batches(dataset, rows, 1, "mask", extractor.min_size))
        readable = [batch for batch in found if batch.groups]
        if not readable:
            return extractor.precision
        cosine = extractor.least_cosine(layers, readable)
        kept.write_json(cosine)
    if cosine >= MIN_COSINE:
        return extractor.precision
    progress.say(
        f"Computing in fp32: features in {extractor.precision} have a cosine of {cosine:.4f} with "
        f"those in fp32, below {MIN_COSINE}. --precision {extractor.precision} takes them."
    )
    return "fp32"
