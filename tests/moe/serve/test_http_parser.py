"""Tests of the strict HTTP parser: what two parsers could read differently is refused, however the bytes arrive."""

import h11
import pytest

from moe.serve.http_parser import RequestSyntaxError, StrictConnection

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "content-length beside transfer-encoding": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "both Content-Length and Transfer-Encoding",
    ),
    "transfer-encoding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding in a request of HTTP/1.0",
    ),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", "a line that ends without CR LF"),
    "bare LF between headers": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "a line that ends without CR LF"),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "a line that ends without CR LF"),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "a malformed one"),
    "folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "a header that continues on the next line"),
    "header folded by a tab": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", "a header that continues"),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "a malformed one"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", "a malformed one"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "a malformed one"),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "a malformed one"),
    "negative length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "a malformed one"),
    "length of 500 digits": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 500 + b"\r\n\r\n",
        "a malformed one",
    ),
    "unknown coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "a malformed one"),
    "HTTP/0.9": (b"GET /\r\n", "a request line without HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "another version of HTTP"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "a malformed one"),
    "absolute form": (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "a target that does not start with /"),
    "authority form": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "a target that does not start with /"),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "a target that does not start with /"),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n", "a malformed one"),
    "chunk size that is no number": (CHUNKED + b"zz\r\n", "a malformed one"),
    "chunk with another length": (CHUNKED + b"2\r\n{}XX0\r\n\r\n", "a malformed one"),
    "bare LF after a chunk size": (CHUNKED + b"2\n{}\r\n0\r\n\r\n", "a malformed one"),
    "bare LF in a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nA: b\n\n", "a line that ends without CR LF"),
    "bare LF after the last chunk": (CHUNKED + b"2\r\n{}\r\n0\r\n\n", "a line that ends without CR LF"),
    "folded trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nA: b\r\n c\r\n\r\n", "a header that continues on the next line"),
}
ACCEPTED = {
    "without body": b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "body with bare LF": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n\n\n a\n ",
    "chunks with bare LF": CHUNKED + b"4\r\n\n\n b\r\n3\r\na\n \r\n0\r\nA: b\r\n\r\n",
}


def read_events(data: bytes, step: int, limit: int = 1024) -> list[str]:
    """Feed bytes in steps, answer every request; return the names of the events."""
    connection, names = StrictConnection(limit), []
    for start in range(0, len(data), step):
        connection.receive_data(data[start : start + step])
        while (event := connection.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            names.append(type(event).__name__)
            if isinstance(event, h11.EndOfMessage):
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.DONE:
                    connection.start_next_cycle()
                else:
                    return names
    return names


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize("name", REFUSED)
def test_parser_refuses_ambiguous_and_malformed_requests(name: str, step: int) -> None:
    data, problem = REFUSED[name]
    with pytest.raises(RequestSyntaxError) as refused:
        read_events(data, step, 10_000)
    assert refused.value.error_status_hint == 400
    assert refused.value.fault.found.startswith(problem) or step < len(data)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 10_000])
@pytest.mark.parametrize("name", ACCEPTED)
def test_parser_accepts_valid_requests_and_those_after_them(name: str, step: int) -> None:
    repeated = 1 if name == "HTTP/1.0" else 3
    names = read_events(ACCEPTED[name] * repeated, step)
    assert (names.count("Request"), names.count("EndOfMessage")) == (repeated, repeated)


@pytest.mark.parametrize("step", [10, 100_000])
def test_parser_limits_the_head_whether_it_arrives_whole_or_in_parts(step: int) -> None:
    def head(size: int) -> bytes:
        start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"

    assert read_events(head(1024), step) == ["Request", "EndOfMessage"]
    for data in (head(1025), head(200_000)):
        with pytest.raises(RequestSyntaxError, match="at most 1,024 bytes") as refused:
            read_events(data, step)
        assert refused.value.error_status_hint == 431
