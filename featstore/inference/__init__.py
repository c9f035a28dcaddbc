"""What a run says of new images and scenes, and which stored images are similar to others."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "NearCopy": "featstore.inference.near_copies",
        "Neighbor": "featstore.inference.neighbor_result",
        "NeighborSearch": "featstore.inference.neighbor_result",
        "Originals": "featstore.inference.source_images",
        "LabelsPrediction": "featstore.inference.predictions",
        "NumberPrediction": "featstore.inference.predictions",
        "Prediction": "featstore.inference.predictions",
        "Query": "featstore.inference.neighbor_result",
        "Suspect": "featstore.inference.suspects",
        "Suspects": "featstore.inference.suspects",
        "find_suspects": "featstore.inference.suspects",
        "nearest": "featstore.inference.nearest_rows",
        "write_sheets": "featstore.inference.neighbor_sheets",
    },
)
