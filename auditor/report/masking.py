"""Credentials in addresses, kept out of everything that is shown, written or logged."""

from __future__ import annotations

import re

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)[^\s/?#]*@")
_QUERY = re.compile(r"([?&][^=&\s]*(?:password|passwd|secret|token|key|sig)[^=&\s]*=)[^&\s\"']+", re.IGNORECASE)


def mask(text: str) -> str:
    """Replace user, password and secret query values of every address in a text by `***`.

    >>> mask("postgresql://me:secret@db/mlflow")
    'postgresql://***@db/mlflow'
    """
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
