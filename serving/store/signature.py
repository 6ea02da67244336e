"""Signatures of archives by OpenSSF Model Signing: whoever holds the key has approved of the code that TorchServe runs.

signing.pub                         in a server's directory: from then on it loads only archives signed with its key
model_store/<name>-<version>.sig    beside each archive
"""

import importlib.util
import os
from pathlib import Path

from handlers import atomic
from serving.store.model_store import Archive, ArchiveError

PUBLIC_KEY = Path("signing.pub")
INSTALL = "the package that signs is missing: .venv/bin/uv pip install --require-hashes -r requirements-signing.txt"


class SignatureError(ArchiveError):
    """An archive is not signed with the key; the message says what to do."""


def path_of(archive: Archive) -> Path:
    """Return the path of an archive's signature."""
    return archive.path.with_suffix(".sig")


def create_key(private_key: Path, root: Path) -> None:
    """Write a new key: the private one, which only its owner may read, and the public one for the server of `root`.

    Raises:
        SignatureError: one of the files exists, or the package is missing.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise SignatureError(INSTALL) from None
    for path in (private_key, root / PUBLIC_KEY):
        if path.exists():
            raise SignatureError(f"{path} exists: remove it first, and sign again what it has signed")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    atomic.write_private(private_key, secret)
    atomic.write_text(root / PUBLIC_KEY, public.decode())


def sign(archive: Archive, private_key: Path) -> Path:
    """Sign an archive; return the path of the signature.

    Raises:
        ArchiveError: the archive is damaged.
        SignatureError: there is no such key, or the package is missing.
    """
    try:
        from model_signing import signing
    except ImportError:
        raise SignatureError(INSTALL) from None
    archive.check()
    if not private_key.is_file():
        raise SignatureError(f"{private_key} does not exist: name the private key with --key, or make one (--new-key)")
    with atomic.replacing(path_of(archive)) as part:
        try:
            signing.Config().use_elliptic_key_signer(private_key=private_key).sign(archive.path, part)
        except (ValueError, TypeError) as error:
            raise SignatureError(f"{private_key} cannot sign ({error}): name a private key in PEM") from error
    return path_of(archive)


def check_package(root: Path) -> None:
    """Check that signatures can be checked, if the server of `root` has a public key.

    Raises:
        SignatureError: the package is missing.
    """
    if os.path.lexists(root / PUBLIC_KEY) and importlib.util.find_spec("model_signing") is None:
        raise SignatureError(f"{root / PUBLIC_KEY} asks for signatures, and {INSTALL}")


def check(archive: Archive, root: Path) -> None:
    """Check an archive's signature, if the server of `root` has a public key.

    Raises:
        SignatureError: it is not signed, or with another key, or has changed since; or the package is missing.
    """
    key = root / PUBLIC_KEY
    if not os.path.lexists(key):
        return
    try:
        from model_signing import verifying
    except ImportError:
        raise SignatureError(INSTALL) from None
    again = f"python -m serving.sign {archive.name} {archive.version} --key <private key>"
    if not path_of(archive).is_file():
        raise SignatureError(f"{archive.path.name} is not signed: sign it ({again})")
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, OSError) as error:
        raise SignatureError(f"{key} cannot be read ({error}): copy it here again") from error
    try:
        verifier.verify(archive.path, path_of(archive))
    except Exception as error:  # the package has no class of its errors
        is_changed = "Hash mismatch" in str(error)
        reason = "has changed since it was signed" if is_changed else f"is not signed with {key.name}"
        raise SignatureError(f"{archive.path.name} {reason}: if it is yours, sign it again ({again})") from error
