"""Certificates for the embedded object store's own gRPC: one authority, one certificate a role, no authority key kept.

Called by `habari.local.objectstore` before the first start. SeaweedFS checks that the other side's
certificate is signed by the authority, not its host name, so whoever has no certificate gets no connection.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from habari.local import secretfiles

VALID_DAYS = 3650
"""Days that certificates are valid: arbitrary, because they never leave the machine."""

RENEW_DAYS = 365
"""Days before the end at which all are made anew."""

AUTHORITY = "ca.crt"
"""File name of the authority's certificate."""


def ensure(folder: Path, roles: Iterable[str], *, now: datetime.datetime | None = None) -> None:
    """Make `ca.crt` and, for each role, `ROLE.crt` and `ROLE.key` in `folder`, unless they are there and valid.

    All are made together and the authority's key is thrown away, so nobody can add one later. The authority's
    certificate is written last: where it is missing, everything is made again.

    Args:
        folder: A private folder.
        roles: Names of the certificates.
        now: The current time (aware); by default the clock's.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    wanted = list(roles)
    if _valid(folder, wanted, now):
        return
    (folder / AUTHORITY).unlink(missing_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("habari object store")
    authority = (
        _builder(authority_name, authority_name, authority_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    for role in wanted:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _builder(_name(role), authority_name, key, now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        secretfiles.write(folder / f"{role}.key", plain)
        secretfiles.write(folder / f"{role}.crt", certificate.public_bytes(serialization.Encoding.PEM))
    secretfiles.write(folder / AUTHORITY, authority.public_bytes(serialization.Encoding.PEM))


def _valid(folder: Path, roles: list[str], now: datetime.datetime) -> bool:
    try:
        authority = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    complete = all((folder / f"{role}.{kind}").is_file() for role in roles for kind in ("crt", "key"))
    return complete and now + datetime.timedelta(days=RENEW_DAYS) < authority.not_valid_after_utc


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )
