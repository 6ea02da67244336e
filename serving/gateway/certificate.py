"""The gateway's certificate: the operator's, or one that it signs itself, for a first try."""

import contextlib
import datetime as dt
import ipaddress
import socket
from pathlib import Path
from typing import Any

from handlers import atomic
from serving.errors import ServingError

KIND = "extensions.transport_sockets.tls.v3.Secret"
CERTIFICATE, KEY = "tls.crt", "tls.key"
DAYS, MARGIN = 365, 30  # days that one is valid, and before its end that the next one is signed
MISSING = "cryptography is missing: .venv/bin/uv pip install --require-hashes -r requirements-gateway.txt"


class CertificateError(ServingError):
    """There is no certificate; the message says what to do."""


def resource(certificate: Path, key: Path) -> dict[str, Any]:
    """Return the certificate for Envoy, which reads both files again when another takes their place.

    Raises:
        CertificateError: one is missing.
    """
    for path in (certificate, key):
        if not path.is_file():
            raise CertificateError(f"{path} does not exist: name a certificate and its key, in PEM")
    files = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    return {"name": "certificate", "tls_certificate": files}


def own(folder: Path) -> tuple[Path, Path]:
    """Return a certificate and key that the gateway signs itself, in `folder`; a valid one is kept.

    Raises:
        CertificateError: the package that signs is missing.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise CertificateError(MISSING) from None
    certificate, key = folder / CERTIFICATE, folder / KEY
    now = dt.datetime.now(dt.UTC)
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
        present = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret_key = serialization.load_pem_private_key(key.read_bytes(), None)
        is_pair = present.public_key() == secret_key.public_key()
        if is_pair and present.not_valid_after_utc > now + dt.timedelta(days=MARGIN):
            return certificate, key
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sightline")])
    hosts = sorted({"localhost", socket.gethostname()})
    names = [*(x509.DNSName(host) for host in hosts), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    atomic.write_private(key, secret)
    with atomic.replacing(certificate) as part:
        part.write_bytes(signed.public_bytes(pem))
    return certificate, key
