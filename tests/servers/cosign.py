"""Two majors of cosign as a program: keys, signing and verifying, without any service."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSPHRASE = "pw"
TIMEOUT_S = 60
# nobody listens there; loopback registries are asked directly
NOWHERE = "http://127.0.0.1:9"
SIGNING_CONFIG = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig": {},
    "tsaConfig": {},
}


class CosignError(RuntimeError):
    """It ended with an error; the message is what it said."""


@dataclass(frozen=True)
class Cosign:
    """`program` in the folder `home`, to which the names of keys are relative.

    `major`: 2 writes the tags `.sig` and `.att`, 3 writes bundles.
    """

    program: Path
    major: int
    home: Path

    def generate_key_pair(self, prefix: str) -> tuple[Path, Path]:
        """PREFIX.key, encrypted with PASSPHRASE, and PREFIX.pub."""
        self._run("generate-key-pair", "--output-key-prefix", prefix)
        return self.home / f"{prefix}.key", self.home / f"{prefix}.pub"

    def import_key_pair(self, key: Path, prefix: str) -> Path:
        """PREFIX.key of a plain PEM key."""
        self._run("import-key-pair", "--key", key, "--output-key-prefix", prefix)
        return self.home / f"{prefix}.key"

    def sign(self, reference: str, key: Path, annotations: Mapping[str, str] = {}) -> None:
        """Sign what `reference`, with a digest, names."""
        self._run("sign", *self.offline(), "--key", key, *_pairs(annotations), reference)

    def attest(self, reference: str, key: Path, kind: str, predicate: Path) -> None:
        """Attest `predicate`, a file, of the type `kind`."""
        what = ("--type", kind, "--predicate", predicate)
        self._run("attest", *self.offline(), "--key", key, *what, reference)

    def verify(
        self, reference: str, key: Path, annotations: Mapping[str, str] = {}
    ) -> list[dict[str, Any]]:
        """The payloads of the signatures that hold. Raises CosignError when none does."""
        done = self._run("verify", _NO_LOG, "--key", key, *_pairs(annotations), reference)
        found: list[dict[str, Any]] = json.loads(done)
        return found

    def verify_attestation(self, reference: str, key: Path, kind: str) -> list[dict[str, Any]]:
        """The envelopes of the attestations that hold. Raises CosignError when none does."""
        done = self._run("verify-attestation", _NO_LOG, "--key", key, "--type", kind, reference)
        return [json.loads(line) for line in done.splitlines() if line.strip()]

    def offline(self) -> tuple[str | Path, ...]:
        """What keeps a signature out of the public log, and an authority from witnessing it."""
        if self.major == 2:
            return ("--yes", "--tlog-upload=false")
        config = self.home / "signing-config.json"
        config.write_text(json.dumps(SIGNING_CONFIG))
        return ("--yes", "--signing-config", config)

    def _run(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self.program, *arguments],
            cwd=self.home,
            env={**os.environ, "COSIGN_PASSWORD": PASSPHRASE, "HTTPS_PROXY": NOWHERE},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise CosignError(done.stderr)
        return done.stdout


_NO_LOG = "--insecure-ignore-tlog=true"


def _pairs(annotations: Mapping[str, str]) -> list[str]:
    return [word for key, value in annotations.items() for word in ("-a", f"{key}={value}")]
