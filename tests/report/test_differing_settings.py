from __future__ import annotations

import copy
from dataclasses import replace

from featstore.report.summaries import differing_settings, features_settings, fit_settings
from featstore.store.format.run_schema import RunRecord


def test_how_images_were_read_is_among_the_facts(run):
    assert differing_settings(run)["facts"]["images read as"] == "red,green,blue, 32 px"
    record = run.record.to_dict()
    (part,) = record["selection"]["features"]
    part["pool"] = "avg"
    gray = copy.deepcopy(part) | {"set_id": "other", "pool": "max"}
    gray["preprocess"] |= {"bands": "gray", "image_size": None}
    record["selection"]["features"].append(gray)
    both = replace(run, record=RunRecord.model_validate(record))
    assert differing_settings(both)["facts"]["images read as"] == (
        f"{part['set_id']}: red,green,blue, 32 px, maps pooled by avg; "
        "other: gray, in their own size, maps pooled by max"
    )
    assert features_settings(both)["bands"] == "red,green,blue+gray"


def test_what_was_not_asked_for_is_empty(run):
    assert set(fit_settings(run).values()) == {""}
