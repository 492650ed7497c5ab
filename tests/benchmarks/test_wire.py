"""Status and length of answers, complete and in pieces."""

import pytest

from benchmarks.wire import Unreadable, answer, request

OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"status":"success"}'


def test_status_and_length_of_a_complete_answer_are_read() -> None:
    assert answer(OK) == (200, len(OK))


def test_an_incomplete_head_is_no_answer() -> None:
    head = OK.index(b"\r\n\r\n") + 4
    assert [answer(OK[:end]) for end in range(head)] == [None] * head


def test_the_length_is_known_before_the_body_is_complete() -> None:
    assert answer(OK[:-1]) == (200, len(OK))


def test_bytes_after_an_answer_are_ignored() -> None:
    assert answer(OK + OK) == (200, len(OK))


@pytest.mark.parametrize("status", [202, 401, 404, 503])
def test_an_error_is_an_answer(status: int) -> None:
    data = b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\n\r\n{}" % status
    assert answer(data) == (status, len(data))


def test_the_length_is_found_in_any_case_and_with_any_spaces() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length:2\r\nX: content-length: 9\r\n\r\n{}"
    assert answer(data) == (200, len(data))


def test_an_answer_without_its_length_is_refused() -> None:
    with pytest.raises(Unreadable, match="chunked"):
        answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")


def test_a_request_has_the_length_of_its_body() -> None:
    assert request("POST", "/path", {"x-one": "1"}, b"body") == (
        b"POST /path HTTP/1.1\r\nhost: 127.0.0.1\r\nx-one: 1\r\ncontent-length: 4\r\n\r\nbody"
    )
