"""Signatures by an identity instead of a key: Fulcio certifies it, Rekor logs it, sigstore checks.

The signer plugin for `keyless:`, the public Sigstore instance, and `keyless:FILE`, the instance
that a client trust configuration describes. An identity token comes from SIGSTORE_ID_TOKEN, or from
the CI system or cloud that this runs in. Needs the extra `keyless`.

Verifying never asks the network: the trusted root is a file that the policy names, or the one of
the public instance that sigstore carries and that its own command line keeps up to date.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from ocimodel.errors import (
    AuthenticationError,
    InputError,
    OcimodelError,
    RegistryError,
    UsageError,
)
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import Evidence
from ocimodel.signing.signer import Ask
from ocimodel.spec import canonical
from ocimodel.spec.dsse import pae

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.verify import Verifier

SCHEME: Final = "keyless:"
VARIABLE: Final = "SIGSTORE_ID_TOKEN"
MAX_TRUST_BYTES: Final = 4 << 20


def open_signer(name: str, environ: Mapping[str, str], ask: Ask) -> KeylessSigner:
    """Raises UsageError without the extra, AuthenticationError without an identity."""
    _need_sigstore()
    return KeylessSigner(_identity_token(environ), name.removeprefix(SCHEME))


def open_public_key(name: str) -> NoReturn:
    raise UsageError(
        f"{name} names no key: an identity signs with a new one each time",
        hint="verify with --policy, and a keyless identity and issuer in its keyring",
    )


class KeylessSigner:
    """A BundleSigner. What it signs is published, in a log that is never forgotten."""

    def __init__(self, token: IdentityToken, trust_config: str = "") -> None:
        """`trust_config`: the file that describes a Sigstore instance; else the public one."""
        self._token = token
        self._trust_config = trust_config

    @property
    def identity(self) -> str:
        return _in_words(self._token.identity, self._token.federated_issuer)

    def bundle(self, statement: bytes) -> bytes:
        """Raises AuthenticationError for an identity that is refused, RegistryError for the rest.

        A subject without a name gets an empty one: sigstore takes no other.
        """
        from sigstore.dsse import Statement
        from sigstore.sign import SigningContext

        config, named = self._config(), _with_names(statement)
        try:
            context = SigningContext.from_trust_config(config)
            with context.signer(self._token) as signer:
                signed = signer.sign_dsse(Statement(named))
        except Exception as error:
            raise _failed(error) from error
        return signed.to_json().encode()

    def _config(self) -> ClientTrustConfig:
        from sigstore.models import ClientTrustConfig

        if not self._trust_config:
            try:
                return ClientTrustConfig.production()
            except Exception as error:
                raise _failed(error) from error
        raw = _read(Path(self._trust_config))
        try:
            return ClientTrustConfig.from_json(raw.decode())
        except ValueError as error:
            raise InputError(
                f"{self._trust_config} is no client trust configuration: {_reason(error)}"
            ) from error


class KeylessAuthority:
    """An Authority: one identity, as one issuer vouches for it; both match exactly."""

    def __init__(self, identity: str, issuer: str, trusted_root: Path | None = None) -> None:
        """`identity`: a mail address or URI. `issuer`: URL. `trusted_root`: of another instance.

        Raises InputError where one is empty: to sigstore, no issuer is any issuer.
        """
        if not identity or not issuer:
            raise InputError("a keyless authority needs an identity and its issuer")
        self._identity = identity
        self._issuer = issuer
        self._trusted_root = trusted_root

    def identify(self, evidence: Evidence, at: datetime) -> str:
        """`at` does not count: a log or a timestamp says when it was signed.

        Raises UsageError without the extra, InputError for a trusted root that cannot be read.
        """
        if not evidence.document or not evidence.certificates:
            raise RefusedError("was not signed by an identity")
        verifier = self._verifier
        from sigstore.models import Bundle
        from sigstore.verify.policy import Identity

        policy = Identity(identity=self._identity, issuer=self._issuer)
        try:
            bundle = Bundle.from_json(evidence.document)
            payload_type, payload = verifier.verify_dsse(bundle, policy)
        except Exception as error:
            # over bytes that anybody may have written, all that it raises means: not verified
            raise RefusedError(f"sigstore: {_reason(error)}") from error
        # what it has verified must be what everybody else here looks at
        if pae(payload_type, payload) != evidence.message:
            raise RefusedError("sigstore verified another statement")
        return _in_words(self._identity, self._issuer)

    @cached_property
    def _verifier(self) -> Verifier:
        _need_sigstore()
        from sigstore.errors import Error
        from sigstore.models import TrustedRoot
        from sigstore.verify import Verifier

        where = self._trusted_root or "the trusted root of the public Sigstore instance"
        try:
            if self._trusted_root is None:
                # else it tells people on stderr that it is offline
                logging.getLogger("sigstore").addHandler(logging.NullHandler())
                return Verifier.production(offline=True)
            return Verifier(trusted_root=TrustedRoot.from_file(str(self._trusted_root)))
        except OSError as error:
            raise InputError(f"cannot read {where}: {error.strerror}") from error
        except (Error, ValueError) as error:
            raise InputError(f"{where} is no trusted root: {_reason(error)}") from error


def _in_words(identity: str, issuer: str) -> str:
    return f"{identity}, according to {issuer}"


def _identity_token(environ: Mapping[str, str]) -> IdentityToken:
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    try:
        raw = environ.get(VARIABLE) or detect_credential()
        if raw:
            return IdentityToken(raw)
    except IdentityError as error:
        raise AuthenticationError(
            f"no usable identity token: {_reason(error)}", hint=f"set {VARIABLE}"
        ) from error
    raise AuthenticationError(
        "no identity to sign as",
        hint=f"set {VARIABLE}, or run where an OpenID Connect token is at hand (CI, cloud)",
    )


def _with_names(statement: bytes) -> bytes:
    document = canonical.decode(statement, "statement")
    document["subject"] = [
        {"name": "", **subject} for subject in canonical.sequence(document, "subject", "statement")
    ]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TRUST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > MAX_TRUST_BYTES:
        raise InputError(f"{path} is over the limit of {MAX_TRUST_BYTES} bytes")
    return raw


def _failed(error: Exception) -> OcimodelError:
    """What it means that signing ended with this: sigstore's clients share no base of errors."""
    from sigstore.oidc import ExpiredIdentity

    response = getattr(error.__cause__, "response", None)
    status = 0 if response is None else response.status_code
    if isinstance(error, ExpiredIdentity) or status in (401, 403):
        return AuthenticationError(
            f"the identity token was refused: {_reason(error)}",
            hint=f"set {VARIABLE} to a fresh one, for the audience sigstore",
        )
    return RegistryError(f"signing without a key: {_reason(error)}", status=status)


def _reason(error: Exception) -> str:
    """In one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _need_sigstore() -> None:
    try:
        import sigstore.models  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "signatures without a key need sigstore", hint="pip install 'ocimodel[keyless]'"
        ) from error
