"""notation as a program, with keys and trust in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 60
STORE = "models"


class NotationError(RuntimeError):
    """It ended with an error; the message is what it said."""


@dataclass(frozen=True)
class Notation:
    """`program`; `config` is what would be ~/.config."""

    program: Path
    config: Path

    @property
    def folder(self) -> Path:
        """Where it looks for its files."""
        folder = self.config / "notation"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def use_key(self, key: Path, chain: Path) -> None:
        """Sign with a plain PEM key and its certificates, its own first."""
        entry = {"name": "test", "keyPath": str(key), "certPath": str(chain)}
        document = {"default": "test", "keys": [entry]}
        (self.folder / "signingkeys.json").write_text(json.dumps(document))

    def trust(self, certificate: Path, identities: Sequence[str] = ("*",)) -> None:
        """Accept in every repository what `identities` under the root `certificate` sign."""
        store = self.folder / "truststore" / "x509" / "ca" / STORE
        store.mkdir(parents=True, exist_ok=True)
        (store / certificate.name).write_bytes(certificate.read_bytes())
        policy = {
            "name": "test",
            "registryScopes": ["*"],
            "signatureVerification": {"level": "strict"},
            "trustStores": [f"ca:{STORE}"],
            "trustedIdentities": list(identities),
        }
        document = {"version": "1.0", "trustPolicies": [policy]}
        (self.folder / "trustpolicy.json").write_text(json.dumps(document))

    def sign(self, reference: str, metadata: Mapping[str, str] = {}) -> None:
        """Sign what `reference`, with a digest, names."""
        self._run("sign", *_pairs(metadata), reference)

    def verify(self, reference: str, metadata: Mapping[str, str] = {}) -> None:
        """Raises NotationError unless a signature holds, with `metadata` under it."""
        self._run("verify", *_pairs(metadata), reference)

    def _run(self, verb: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.program, verb, "--insecure-registry", *arguments],
            env={**os.environ, "XDG_CONFIG_HOME": str(self.config)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise NotationError(done.stderr)


def _pairs(metadata: Mapping[str, str]) -> list[str]:
    return [word for key, value in metadata.items() for word in ("-m", f"{key}={value}")]
