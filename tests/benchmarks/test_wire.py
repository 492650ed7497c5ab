"""Answers are read far enough to count them, however they are cut into pieces."""

import pytest

from benchmarks.wire import Unreadable, answer, request

OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"status":"success"}'


def test_a_whole_answer_is_its_status_and_its_length() -> None:
    assert answer(OK) == (200, len(OK))


def test_no_part_of_a_head_is_an_answer() -> None:
    head = OK.index(b"\r\n\r\n") + 4
    assert [answer(OK[:end]) for end in range(head)] == [None] * head


def test_a_head_without_all_of_its_body_says_how_much_there_will_be() -> None:
    assert answer(OK[:-1]) == (200, len(OK))


def test_what_follows_an_answer_does_not_belong_to_it() -> None:
    assert answer(OK + OK) == (200, len(OK))


@pytest.mark.parametrize("status", [202, 401, 404, 503])
def test_an_error_is_an_answer_too(status: int) -> None:
    data = b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\n\r\n{}" % status
    assert answer(data) == (status, len(data))


def test_the_length_is_found_in_any_case_and_with_any_space() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length:2\r\nX: content-length: 9\r\n\r\n{}"
    assert answer(data) == (200, len(data))


def test_an_answer_that_does_not_say_how_long_it_is_is_refused() -> None:
    with pytest.raises(Unreadable, match="chunked"):
        answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")


def test_a_request_says_how_long_its_body_is() -> None:
    assert request("POST", "/path", {"x-one": "1"}, b"body") == (
        b"POST /path HTTP/1.1\r\nhost: 127.0.0.1\r\nx-one: 1\r\ncontent-length: 4\r\n\r\nbody"
    )
