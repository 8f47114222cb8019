"""`sslmode=verify-full` as docs/tls.md describes it, against a server whose certificate a throw-away CA signed.

The embedded PostgreSQL is built without TLS, so a front of ours speaks it: PostgreSQL's own negotiation, then bytes.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Connection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.conninfo import conninfo_to_dict

from include import retries
from include.connecting import profile_variables, written_parameters
from include.dbt.project import PROFILE, PROJECT_DIR, dbt_environment
from include.local.environment import ROOT
from tests.conftest import Postgres

PEM = serialization.Encoding.PEM
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives as long as the tests."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string(f"CN={name}")
        builder = _builder(subject, subject, key).add_extension(x509.BasicConstraints(True, None), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(PEM))
        return path

    def issue(self, address: str, folder: Path) -> tuple[Path, Path]:
        """Certificate and key of a server at an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        subject = x509.Name.from_rfc4514_string("CN=warehouse")
        builder = _builder(subject, self.certificate.subject, key).add_extension(names, critical=False)
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files = folder / "server.crt", folder / "server.key"
        contents = builder.sign(self.key, hashes.SHA256()).public_bytes(PEM), private
        for path, content in zip(files, contents, strict=True):
            path.write_bytes(content)
        return files


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))


class _Front(socketserver.ThreadingTCPServer):
    """Answers PostgreSQL's SSLRequest, does the handshake and passes everything on to the server behind."""

    daemon_threads = True
    behind: tuple[str, int]
    context: ssl.SSLContext


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        front: _Front = self.server  # type: ignore[assignment]
        assert self.request.recv(8) == SSL_REQUEST
        self.request.sendall(b"S")
        try:
            client = front.context.wrap_socket(self.request, server_side=True)
        except ssl.SSLError:
            return  # the client does not like the certificate
        with client, socket.create_connection(front.behind) as behind:
            while True:
                ready = [client] if client.pending() else select.select([client, behind], [], [])[0]
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    (behind if one is client else client).sendall(data)


@dataclass(frozen=True)
class Server:
    """A server that speaks TLS alone, the CA that signed for it, and one that did not."""

    port: int
    trusted: Path
    stranger: Path

    def uri(self, root: Path, host: str = "127.0.0.1") -> str:
        options = f"sslmode=verify-full&sslrootcert={quote(str(root), safe='')}"
        return f"postgresql://loader:secret@{host}:{self.port}/postgres?{options}"


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    authority, stranger, home = Authority.make("ours"), Authority.make("stranger"), tmp_path_factory.mktemp("tls")
    with psycopg.connect(postgres.server.superuser_dsn("postgres")) as connection:
        connection.execute("drop role if exists loader")
        connection.execute("create role loader login password 'secret'")
    front = _Front(("127.0.0.1", 0), _Handler)
    front.behind = ("127.0.0.1", postgres.server.port)
    front.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.context.load_cert_chain(*authority.issue("127.0.0.1", home))
    threading.Thread(target=front.serve_forever, daemon=True).start()
    yield Server(front.server_address[1], authority.write(home / "ours.crt"), stranger.write(home / "stranger.crt"))
    front.shutdown()
    front.server_close()


def connect_as_tasks_do(uri: str) -> psycopg.Connection:
    return PostgresHook(connection=Connection.from_uri(uri, conn_id="warehouse")).get_conn()


def test_the_session_is_encrypted(server: Server) -> None:
    with connect_as_tasks_do(server.uri(server.trusted)) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select current_user").fetchone() == ("loader",)


def test_a_server_of_another_ca_is_refused(server: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect_as_tasks_do(server.uri(server.stranger))


def test_a_certificate_of_another_host_is_refused(server: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match='does not match host name "localhost"'):
        connect_as_tasks_do(server.uri(server.trusted, host="localhost"))


def test_dbt_verifies_as_well(server: Server, tmp_path: Path) -> None:
    """dbt takes the options from the same connection."""
    command = [sys.executable, "-m", "dbt.cli.main", "debug", "--connection", "--project-dir", str(PROJECT_DIR)]
    command += ["--profiles-dir", str(PROJECT_DIR), "--profile", PROFILE, "--log-path", str(tmp_path)]

    def debug(root: Path) -> subprocess.CompletedProcess[str]:
        environment = {**dbt_environment(), **profile_variables(written_parameters(server.uri(root)))}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    good, bad = debug(server.trusted), debug(server.stranger)
    assert good.returncode == 0, good.stdout
    assert bad.returncode != 0 and "certificate verify failed" in bad.stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_that_is_refused_is_refused_again(server: Server, host: str) -> None:
    """And with the right one, the wrong password is."""
    root = server.trusted if host == "localhost" else server.stranger
    assert retries.is_refused(conninfo_to_dict(server.uri(root, host=host)))
    good = conninfo_to_dict(server.uri(server.trusted))
    assert not retries.is_refused(good)
    assert retries.is_refused(good | {"password": "wrong"})
    assert retries.is_refused(good | {"dbname": "nowhere"})
