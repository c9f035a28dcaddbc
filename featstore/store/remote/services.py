"""Which service the environment names, and the errors of services in plain words."""

from __future__ import annotations

import os
import re

from featstore.text import RESUME_HINT

RETRIES = 5
"""How often a failed request is repeated."""


BROKEN = re.compile(r"response body|invalid \w+ response|decoding", re.IGNORECASE)
"""An answer that broke off; obstore repeats only requests that were not answered at all."""


SERVICE = re.compile(
    r"AWS_ENDPOINT(_URL)?(_S3)?|AZURE_(STORAGE_)?(ACCOUNT_NAME|ENDPOINT|USE_EMULATOR)"
    r"|GOOGLE_BASE_URL"
)
"""Variables of the environment that decide which service has a URL's bucket."""


def service_of(url: str) -> dict[str, str]:
    """Return the variables that decide which bucket a URL names; they may hold secrets."""
    family = {"s": "AWS", "g": "GOOGLE", "a": "AZURE"}.get(url[:1].lower(), "-")
    return {
        name: value.rstrip("/")
        for name, value in sorted(os.environ.items())
        if value and name.startswith(family) and SERVICE.fullmatch(name)
    }


def is_broken(text: str) -> bool:
    """Return whether an error says that an answer broke off."""
    return BROKEN.search(text.partition("\n")[0]) is not None


def foreign_name(text: str) -> str:
    """Return the name that obstore refuses, from its error."""
    found = re.search(r'Path "((?:[^"\\]|\\.)*)"', text)
    return found[1] if found else text


def lacks_conditions(text: str) -> bool:
    """Return whether an error says that the service has no conditional writes."""
    return "501 Not Implemented" in text or "NotImplemented" in text


def names_no_bucket(text: str) -> bool:
    """Return whether an error says that the bucket does not exist."""
    return any(word in text for word in ("NoSuchBucket", "ContainerNotFound", "bucket does not"))


def explain(url: str, text: str) -> str:
    """Return the message, with a cure, for an error of obstore."""
    if names_no_bucket(text):
        return f"{url}: there is no such bucket. Create it, or name another --store."
    if any(word in text for word in ("InstanceCredentials", "169.254.169.254", "metadata.google")):
        return (
            f"{url}: no credentials were found. Put them into the environment, for S3 as "
            f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. {RESUME_HINT}"
        )
    if any(word in text for word in ("403 Forbidden", "401 Unauthorized", "AccessDenied")):
        return (
            f"{url}: the service denies access. Check the credentials in the environment (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and that they may list, read, write and "
            f"delete there. {RESUME_HINT}"
        )
    if "object with invalid path" in text:
        return (
            f"{url}: the object {foreign_name(text)!r} there can't be passed over. featstore did "
            "not write it. Remove it with the service's own tools."
        )
    if "builder error" in text:
        return (
            f"{url}: the service's endpoint is not encrypted. To use it nevertheless, set "
            "AWS_ALLOW_HTTP=true."
        )
    if is_broken(text):
        return f"{url}: the service's answers broke off {RETRIES + 1} times. {RESUME_HINT}"
    if any(word in text for word in ("HTTP error", "timed out", "error sending request")):
        return (
            f"{url}: the service does not answer. Check the network and, for S3, AWS_ENDPOINT_URL "
            f"and AWS_REGION. {RESUME_HINT}"
        )
    first = text.partition("\n")[0].strip()
    return f"{url}: the service answered: {first.rstrip('.')}. {RESUME_HINT}"
