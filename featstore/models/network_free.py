"""What models without a network share: settings that they refuse, records, bands that must fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from featstore.config import ExtractConfig
from featstore.errors import BackboneError, ConfigError
from featstore.store.format.run_schema import FeatureSpec

FOR_NETWORKS = ("weights", "pool", "image_size", "precision", "compile")
"""Settings that say how a network is run."""


def refuse_settings(config: ExtractConfig, but: Sequence[str] = ()) -> None:
    """Refuse settings for networks, except those in `but`, and luminance in place of bands."""
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(config)
        if field.name in FOR_NETWORKS
        and field.name not in but
        and getattr(config, field.name) != field.default
    ]
    if given:
        named = ", ".join(given)
        raise ConfigError(
            f"{config.model} has no network and reads all bands as they are: {named} would "
            f"change nothing. Leave {named} out."
        )
    if config.bands == "gray":
        raise ConfigError(f"{config.model} reads bands, not their luminance: leave --bands out.")


def records_of(
    model: str,
    bands: Sequence[str],
    weights: str = "none",
    weights_name: str = "none",
    weights_sha256: str = "none",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a feature set records of a model, and of the images' preprocessing."""
    backbone = {
        "model": model,
        "weights": weights,
        "weights_name": weights_name,
        "weights_path": None,
        "weights_sha256": weights_sha256,
        "precision": "fp32",
    }
    return backbone, {"image_size": None, "bands": ",".join(bands), "resize": "none"}


def check_bands(record: FeatureSpec, bands: Sequence[str]) -> None:
    """Refuse images with other bands than those that recorded features are of."""
    trained_on = record.preprocess.bands
    if trained_on != ",".join(bands):
        raise BackboneError(
            f"The model was trained on {record.backbone.model} of the bands {trained_on}; these "
            f"images have {','.join(bands)}. Scenes of those bands: featstore map."
        )
