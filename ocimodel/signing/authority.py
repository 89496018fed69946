"""Whom a policy can name: anything that can tell who made a signature."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from ocimodel.signing.evidence import Evidence


class RefusedError(Exception):
    """Why a piece of evidence does not count, in one line; caught where decisions are made."""


class Authority(Protocol):
    """A key, a certificate authority, an identity provider."""

    def identify(self, evidence: Evidence, at: datetime) -> str:
        """Who signed, in words that people recognise; the signature has been checked then.

        `at`: when certificates must have been valid. Raises RefusedError when it was somebody
        else, or nobody. Pure: reads no clock, no file, no network.
        """
        ...
