"""The Cobalt adapter against a real server on loopback that answers, or not, as a test wants."""

import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cobalt_relay import observability
from cobalt_relay.adapters.cobalt import MAX_ANSWER_BYTES, Cobalt
from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    RateLimited,
    RequestRefused,
    UpstreamBroken,
    UpstreamMalformed,
    UpstreamUnanswered,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from cobalt_relay.models import ClientCredentials, FetchRequest

CREDENTIALS = ClientCredentials(client_id="client", client_secret="sesame")
WEEK = FetchRequest.from_body({"start_date": "2023-12-01", "end_date": "2023-12-07"})
Behave = Callable[[socket.socket], None]


class Upstream:
    """A TCP server: reads one HTTP request per connection, then lets the test decide."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.reads = True
        self.behave: Behave = lambda _connection: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._released = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def hang(self, _connection: socket.socket) -> None:
        self._released.wait(10)

    def close(self) -> None:
        self._released.set()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                if self.reads:
                    self.requests.append(_read_request(connection))
                self.behave(connection)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = sum(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answers(status: int, body: Any, *headers: str) -> Behave:
    """Answer with a status, a JSON document (or text as it is), and headers."""
    text = body if isinstance(body, str) else json.dumps(body)
    size = f"Content-Length: {len(text.encode())}"
    lines = [f"HTTP/1.1 {status} X", size, "Connection: close", *headers, "", ""]
    return lambda connection: connection.sendall(("\r\n".join(lines) + text).encode())


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


def fetch(upstream: Upstream, behave: Behave | None = None) -> str:
    if behave:
        upstream.behave = behave
    cobalt = Cobalt(upstream.url, connect_seconds=0.5, answer_seconds=0.4)
    return cobalt.fetch_appointments(CREDENTIALS, "token-1", WEEK)


def test_documented_request_is_sent_when_a_fetch_starts(upstream: Upstream) -> None:
    fetch(upstream, answers(202, {"success": True, "job_execution_id": "job_1"}))

    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /v1/appointments/fetch http/1.1"
    assert {
        "client_id: client",
        "client_secret: sesame",
        "access_token: token-1",
        "content-type: application/json",
    } <= set(lines)
    assert json.loads(body) == {"start_date": "2023-12-01", "end_date": "2023-12-07"}


@pytest.mark.parametrize("status", [202, 200, 201])
@pytest.mark.parametrize(
    ("body", "job"),
    [
        ({"success": True, "job_execution_id": "job_1", "message": "x"}, "job_1"),
        ({"success": True, "job_id": "job_2"}, "job_2"),
        ({"job_id": 4711}, "4711"),
        ({"job_execution_id": None, "job_id": "job_3"}, "job_3"),
        ({"job_execution_id": "", "job_id": "job_3"}, "job_3"),
        ({"job_execution_id": 12345678901234567890}, "12345678901234567890"),
    ],
)
def test_job_id_is_read_when_any_edition_accepts(
    upstream: Upstream, status: int, body: dict[str, Any], job: str
) -> None:
    job_id = fetch(upstream, answers(status, body))

    assert job_id == job


@pytest.mark.parametrize(
    "body",
    [
        {"success": True},
        {"success": True, "job_id": None},
        {"success": True, "job_id": ""},
        {"success": True, "job_id": "x" * 257},
        {"success": False, "job_id": "job_1"},
        {"job_id": True, "job_execution_id": 1.5},
        [],
        "<html>OK</html>",
        "",
        "[" * 50_000,
        '{"job_id": "job_1"}' + " " * MAX_ANSWER_BYTES,
    ],
)
def test_success_without_a_job_id_is_malformed(upstream: Upstream, body: Any) -> None:
    with pytest.raises(UpstreamMalformed) as fault:
        fetch(upstream, answers(202, body))

    assert fault.value.may_have_started


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, RequestRefused), (401, AccessTokenRefused), (403, AccessForbidden), (429, RateLimited)],
)
def test_refusal_keeps_cobalts_words(
    upstream: Upstream, status: int, error: type[Exception]
) -> None:
    body = {"success": False, "error": "login_required", "message": "In Cobalt's words."}

    with pytest.raises(error) as refusal:
        fetch(upstream, answers(status, body))

    assert vars(refusal.value) == {
        "message": "In Cobalt's words.",
        "error": "login_required",
        "retry_after": None,
        "emr_name": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        "<html><script>alert(1)</script></html>",
        {"message": "two\nlines"},
        {"message": ""},
        {"message": {"a": 1}},
        {"message": " "},
        {"error": "Not a Code!"},
    ],
)
def test_refusal_has_our_words_when_cobalts_are_none(upstream: Upstream, body: Any) -> None:
    with pytest.raises(RequestRefused) as refusal:
        fetch(upstream, answers(400, body))

    assert refusal.value.message == "Cobalt refused the request."
    assert refusal.value.error is None


def test_words_are_cut_when_they_are_endless(upstream: Upstream) -> None:
    with pytest.raises(RequestRefused) as refusal:
        fetch(upstream, answers(400, {"message": "x" * 10_000}))

    assert len(refusal.value.message) == 500


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("30", "30"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("-1", None),
        ("soon", None),
        ("99999999", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT; <x>", None),
    ],
)
def test_retry_after_is_passed_on_when_it_is_one(
    upstream: Upstream, given: str, kept: str | None
) -> None:
    with pytest.raises(RateLimited) as refusal:
        fetch(upstream, answers(429, {}, f"Retry-After: {given}"))

    assert refusal.value.retry_after == kept


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_outcome_is_open_when_cobalt_breaks(upstream: Upstream, status: int) -> None:
    with pytest.raises(UpstreamBroken) as fault:
        fetch(upstream, answers(status, "<html>Oops</html>"))

    assert fault.value.may_have_started


@pytest.mark.parametrize(
    ("status", "header"),
    [(503, "Retry-After: 5"), (404, "X: y"), (302, "Location: http://127.0.0.1:9/"), (418, "X: y")],
)
def test_nothing_was_started_when_cobalt_does_not_take_it(
    upstream: Upstream, status: int, header: str
) -> None:
    with pytest.raises(UpstreamUnavailable) as fault:
        fetch(upstream, answers(status, {}, header))

    assert not fault.value.may_have_started
    assert len(upstream.requests) == 1


def _drips(part: str) -> Behave:
    """Give a whole acceptance, but its head or its body so slowly that patience ends first."""
    accepted = b'{"job_execution_id": "job_1"}'
    head = b"HTTP/1.1 202 X\r\nContent-Length: %d\r\n\r\n" % len(accepted)

    def drip(connection: socket.socket) -> None:
        slow, rest = (head, accepted) if part == "head" else (accepted, b"")
        connection.sendall(b"" if part == "head" else head)
        for byte in slow:
            connection.sendall(bytes([byte]))
            threading.Event().wait(1.5 / len(slow))
        connection.sendall(rest)

    return drip


def _cut(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 202 X\r\nContent-Length: 1000\r\n\r\n{"job')


@pytest.mark.parametrize(
    "behave",
    [
        lambda connection: connection.close(),
        _drips("head"),
        _drips("body"),
        _cut,
        lambda connection: connection.sendall(b"not HTTP at all\r\n\r\n"),
    ],
    ids=["hangs up", "drips its head", "drips its body", "breaks off", "no HTTP"],
)
def test_unanswered_and_sent_once_when_no_answer_comes(upstream: Upstream, behave: Behave) -> None:
    with pytest.raises(UpstreamUnanswered) as fault:
        fetch(upstream, behave)

    assert fault.value.may_have_started
    assert len(upstream.requests) == 1


def test_unanswered_and_sent_once_when_cobalt_hangs(upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnanswered):
        fetch(upstream, upstream.hang)

    assert len(upstream.requests) == 1


def test_unreachable_when_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(UpstreamUnreachable) as fault:
        Cobalt(f"http://127.0.0.1:{port}").fetch_appointments(CREDENTIALS, "t", WEEK)

    assert not fault.value.may_have_started


def test_unreachable_when_the_host_name_is_unknown() -> None:
    with pytest.raises(UpstreamUnreachable):
        Cobalt("http://cobalt.invalid").fetch_appointments(CREDENTIALS, "t", WEEK)


def test_unreachable_when_the_certificate_is_not_to_be_trusted(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reads = False
    upstream.behave = lambda connection: (
        self_signed(tmp_path).wrap_socket(connection, server_side=True).close()
    )
    cobalt = Cobalt(upstream.url.replace("http:", "https:"), connect_seconds=0.5)

    with pytest.raises(UpstreamUnreachable) as fault:
        cobalt.fetch_appointments(CREDENTIALS, "t", WEEK)

    assert not fault.value.may_have_started


def test_outcome_is_open_when_tls_fails_at_an_unknown_point(upstream: Upstream) -> None:
    upstream.reads = False
    upstream.behave = answers(400, "this server speaks plain HTTP")
    cobalt = Cobalt(upstream.url.replace("http:", "https:"), connect_seconds=0.5)

    with pytest.raises(UpstreamUnanswered) as fault:
        cobalt.fetch_appointments(CREDENTIALS, "t", WEEK)

    assert fault.value.may_have_started


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime(2025, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, unencrypted))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def test_nothing_of_one_clinic_reaches_the_next(upstream: Upstream) -> None:
    cobalt = Cobalt(upstream.url)
    upstream.behave = answers(202, {"job_id": "job_1"}, "Set-Cookie: session=clinic-a; Path=/")

    for token in ("token-a", "token-b"):
        cobalt.fetch_appointments(CREDENTIALS, token, WEEK)

    heads = [request.split(b"\r\n\r\n")[0].lower() for request in upstream.requests]
    assert b"cookie" not in heads[1]
    assert all(b"connection: close" in head for head in heads)


def test_proxy_of_the_environment_sees_nothing(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    job = fetch(upstream, answers(202, {"job_id": "job_1"}))

    assert job == "job_1"


def test_unreachable_when_connecting_takes_too_long() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())

        with pytest.raises(UpstreamUnreachable):
            Cobalt(
                f"http://127.0.0.1:{full.getsockname()[1]}", connect_seconds=0.2
            ).fetch_appointments(CREDENTIALS, "t", WEEK)

        for filler in fillers:
            filler.close()


def test_nothing_is_logged_when_the_headers_of_an_answer_are_malformed(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    assert observability.logger  # its import sets the levels
    caplog.set_level(logging.WARNING)

    with pytest.raises(UpstreamBroken):
        fetch(upstream, answers(500, {}, "Chart of Jane Doe is locked", "X: y"))

    assert caplog.text == ""
