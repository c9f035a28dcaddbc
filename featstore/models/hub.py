"""Files of the Hugging Face hub, in the hub's own cache; the only file that imports its client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featstore.errors import WeightsError
from featstore.progress import SILENT, Progress
from featstore.text import join_some

ANSWER_S = 2.0
"""Seconds within which the hub has to connect, and then to answer; else it counts as unreachable.

The client itself waits three seconds before that, for a list that it keeps for a day.
"""


def hub_file(
    repo: str, names: Sequence[str], by_hand: Path, model: str, progress: Progress = SILENT
) -> Path:
    """Return the first of several files that a repository has, downloaded if it is not cached.

    A file at `by_hand` comes first. If nothing can be fetched, WeightsError names the file and
    where to put it. `repo` may end in ``@REVISION``.
    """
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if by_hand.is_file():
        return by_hand
    repo, _, revision = repo.partition("@")
    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    progress.say(f"Fetching the weights of {model} from {constants.ENDPOINT}/{repo} ...")
    cause = f"{repo} has no {join_some(names)}"
    for name in names:
        try:
            # hf_hub_download tries an unreachable hub again for 24 s.
            url = hf_hub_url(repo, name, revision=revision or None)
            get_hf_file_metadata(url, timeout=ANSWER_S)
            return Path(hf_hub_download(repo, name, revision=revision or None))
        except LocalEntryNotFoundError as error:
            cause = _first_sentence(error.__cause__ or error)
            break
        except EntryNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001 - the client passes on whatever its transport raises
            cause = _first_sentence(error)
            break
    url = f"{constants.ENDPOINT}/{repo}/resolve/{revision or 'main'}/{names[0]}"
    raise WeightsError(
        f"The weights of {model} are not on this machine and can't be downloaded: {cause}. To do "
        f"it by hand, fetch {url} elsewhere and put it at {by_hand}. Or give your own file with "
        "--weights FILE, or try the pipeline with --weights random:0."
    )


def _first_sentence(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
