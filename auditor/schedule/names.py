"""Names as Kubernetes takes them."""

from __future__ import annotations

import re

from auditor.errors import InputError

MOST_CHARACTERS = {"cronjob": 52, "rayjob": 47, "raycronjob": 36}
"""What stands behind a name when Kubernetes and KubeRay make others of it needs the rest of 63."""


def resource_name(text: str, form: str, origin: str) -> str:
    """A name for Kubernetes: small letters, digits and hyphens.

    Args:
        text: Any name; other characters become hyphens.
        form: What it names: a key of MOST_CHARACTERS.
        origin: Where the text is from, for the message.

    Raises:
        InputError: Nothing is left of it, or it is too long.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not re.match("[a-z]", name):
        raise InputError(
            f"{origin} {text!r}: gives no name that Kubernetes takes, which begins with a letter; use --name"
        )
    if len(name) > MOST_CHARACTERS[form]:
        raise InputError(
            f"{origin} {text!r}: a {form} has a name of at most {MOST_CHARACTERS[form]} characters, {name} has "
            f"{len(name)}; use --name"
        )
    return name
