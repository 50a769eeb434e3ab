"""HTTP/1.1 requests, parsed by h11 and refused where two parsers could read them differently.

h11 has no option for this: it accepts a bare LF as the end of a line, folded headers, Content-Length beside
Transfer-Encoding and any version, and its size limit holds for incomplete heads only.
"""

import re

import h11

from experts.errors import Fault

AMBIGUOUS_LINES = re.compile(rb"[^\r]\n|\n[ \t]")
"""A line that ends with LF alone, or one that continues the header before it (obs-fold)."""
REQUEST_LINE = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]")
VERSIONS = (b"1.0", b"1.1")
REMEDY = "send it with an HTTP/1.1 library"


class RequestSyntaxError(h11.RemoteProtocolError):
    """A request that is refused.

    Args:
        fault: the reason, which holds nothing of the request.
        status: HTTP status code.
    """

    def __init__(self, fault: Fault, status: int = 400) -> None:
        super().__init__(str(fault), error_status_hint=status)
        self.fault = fault


class StrictConnection(h11.Connection):
    """Server side of a connection that checks what h11 lets pass.

    Args:
        max_head_bytes: bytes of a request line and its headers.
    """

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self.max_head_bytes = max_head_bytes
        self.error: RequestSyntaxError | None = None
        """Why the last request was refused."""
        self._chunked = False
        self._last_byte = b""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event.

        Raises:
            RequestSyntaxError: if the request is refused.
        """
        reading_head = self.their_state is h11.IDLE
        try:
            return self._next_event(reading_head)
        except RequestSyntaxError as error:
            self.error = error
            raise
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431 and reading_head:
                self.error = RequestSyntaxError(self._head_too_large(), 431)
            else:
                self.error = _malformed("a malformed one")
            raise self.error from error

    def _next_event(self, reading_head: bool) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if not reading_head and not (self._chunked and self.their_state is h11.SEND_BODY):
            return super().next_event()
        received = self.trailing_data[0]
        event = super().next_event()
        rest = self.trailing_data[0]
        consumed = received[: len(received) - len(rest)]
        if isinstance(event, h11.Request):
            self._check_head(consumed, event)
        elif isinstance(event, h11.EndOfMessage):  # `consumed` is the end of the last chunk, and the trailer
            _check_lines(self._last_byte + consumed)
        self._last_byte = consumed[-1:] or self._last_byte
        if event is h11.NEED_DATA:  # `rest` is a part of a head, of the size of a chunk, or of a trailer
            _check_lines(self._last_byte + rest)
            if reading_head:
                _check_request_line(rest)
        return event

    def _check_head(self, head: bytes, request: h11.Request) -> None:
        if len(head) > self.max_head_bytes:
            raise RequestSyntaxError(self._head_too_large(), 431)
        _check_lines(head)
        _check_version(request.http_version)
        names = {name for name, _ in request.headers}
        self._chunked = b"transfer-encoding" in names
        if self._chunked and b"content-length" in names:
            raise _malformed("both Content-Length and Transfer-Encoding")
        if self._chunked and request.http_version == b"1.0":
            raise _malformed("Transfer-Encoding in a request of HTTP/1.0")
        if not request.target.startswith(b"/"):
            fault = Fault("a request for a path", "a target that does not start with /", "send the path only")
            raise RequestSyntaxError(fault)

    def _head_too_large(self) -> Fault:
        limit = f"a request line and headers of at most {self.max_head_bytes:,} bytes"
        return Fault(limit, "larger ones", "send fewer or shorter headers")


def _malformed(problem: str) -> RequestSyntaxError:
    return RequestSyntaxError(Fault("a request in the syntax of HTTP/1.1", problem, REMEDY))


def _check_lines(lines: bytes) -> None:
    match = AMBIGUOUS_LINES.search(lines)
    if match:
        folded = match.group()[-1:] in (b" ", b"\t")
        raise _malformed("a header that continues on the next line" if folded else "a line that ends without CR LF")


def _check_request_line(head: bytes) -> None:
    """Refuse early what cannot become valid, so that its sender does not wait for the timeout."""
    line, end, _ = head.partition(b"\r\n")
    if end and not REQUEST_LINE.fullmatch(line):
        raise _malformed("a request line without HTTP/1.1")


def _check_version(version: bytes) -> None:
    if version not in VERSIONS:
        raise _malformed("another version of HTTP")
