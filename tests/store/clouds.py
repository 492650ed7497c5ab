"""Stand-ins for two clouds, in a process of their own: Google's XML API and Azure's blobs, as far as a store asks.

They keep one bucket, `pictures`, in memory. The Google one knows one bearer token and proves nothing about signing;
the Azure one checks each request's Shared Key signature. Neither is the cloud: what they refuse is no measure for it.

    python clouds.py gs|az PORT
"""

import base64
import hashlib
import hmac
import re
import sys
from collections import defaultdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

BUCKET, TOKEN, ACCOUNT = "pictures", "a-token", "account"
KEY = base64.b64encode(b"a key of an account that is not there").decode()
_SIGNED = [
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"),
    *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
]


class Cloud(BaseHTTPRequestHandler):
    """Objects in memory, whole or in part; a subclass knows who may ask and how parts become an object."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    parts: ClassVar[dict[str, dict[str, bytes]]] = defaultdict(dict)

    def may_ask(self) -> bool:
        raise NotImplementedError

    def put(self, name: str, body: bytes) -> None:
        raise NotImplementedError

    def post(self, name: str, body: bytes) -> None:
        raise NotImplementedError

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        name = unquote(urlsplit(self.path).path).removeprefix(f"/{ACCOUNT}").removeprefix("/")
        self.query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if not self.may_ask():
            self.answer(HTTPStatus.FORBIDDEN)
        elif name.partition("/")[0] != BUCKET:
            self.answer(HTTPStatus.NOT_FOUND)
        elif self.command in {"PUT", "POST"}:
            (self.put if self.command == "PUT" else self.post)(name, body)
        elif name not in self.objects:
            self.answer(HTTPStatus.NOT_FOUND)
        elif self.command == "DELETE":
            del self.objects[name]
            self.answer(HTTPStatus.NO_CONTENT)
        else:
            self.give(self.objects[name])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815 - the names that http.server calls

    def give(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if asked is None:
            self.answer(HTTPStatus.OK, data)
            return
        start, end = int(asked[1]), min(int(asked[2]), len(data) - 1)
        where = {"content-range": f"bytes {start}-{end}/{len(data)}"}
        self.answer(HTTPStatus.PARTIAL_CONTENT, data[start : end + 1], where)

    def answer(self, status: HTTPStatus, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        tag = f'"{hashlib.md5(body).hexdigest()}"'  # noqa: S324 - an ETag guards nothing
        for name, value in {"etag": tag, "last-modified": self.date_time_string(), **(headers or {})}.items():
            self.send_header(name, value)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Google(Cloud):
    def may_ask(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def put(self, name: str, body: bytes) -> None:
        if "uploadId" in self.query:
            self.parts[self.query["uploadId"]][self.query["partNumber"].zfill(6)] = body
        else:
            self.objects[name] = body
        self.answer(HTTPStatus.OK)

    def post(self, name: str, _: bytes) -> None:
        if "uploads" in self.query:
            told = f"<UploadId>{len(self.parts)}</UploadId>"
            self.answer(
                HTTPStatus.OK, f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode()
            )
            return
        parts = self.parts[self.query["uploadId"]]
        self.objects[name] = b"".join(parts[number] for number in sorted(parts))
        told = "<ETag>made-of-parts</ETag>"
        self.answer(HTTPStatus.OK, f"<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>".encode())


class Azure(Cloud):
    def may_ask(self) -> bool:
        """The Shared Key scheme, as its documentation has it."""
        lines = [self.headers.get(name, "") for name in _SIGNED]
        lines[2] = "" if lines[2] == "0" else lines[2]
        own = sorted((name.lower(), value) for name, value in self.headers.items() if name.lower().startswith("x-ms-"))
        asked = sorted(self.query.items())
        signed = [
            self.command,
            *lines,
            *(f"{name}:{value}" for name, value in own),
            f"/{ACCOUNT}{urlsplit(self.path).path}",
            *(f"{name.lower()}:{value}" for name, value in asked),
        ]
        mac = hmac.digest(base64.b64decode(KEY), "\n".join(signed).encode(), "sha256")
        return self.headers.get("authorization") == f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"

    def put(self, name: str, body: bytes) -> None:
        match self.query.get("comp"):
            case "block":
                self.parts[name][self.query["blockid"]] = body
            case "blocklist":
                wanted = re.findall(r"<(?:Uncommitted|Latest)>(.*?)</", body.decode())
                self.objects[name] = b"".join(self.parts[name][block] for block in wanted)
            case _:
                self.objects[name] = body
        self.answer(HTTPStatus.CREATED)

    def post(self, _: str, body: bytes) -> None:
        """A batch of deletions, each an HTTP request in a part of its own."""
        answers = b""
        for number, path in enumerate(re.findall(rb"^DELETE (\S+) HTTP", body, re.MULTILINE)):
            found = self.objects.pop(unquote(path.decode()).removeprefix(f"/{ACCOUNT}/"), None)
            status = "404 Not Found" if found is None else "202 Accepted"
            head = f"--parts\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
            answers += f"{head}HTTP/1.1 {status}\r\n\r\n".encode()
        self.answer(
            HTTPStatus.ACCEPTED, answers + b"--parts--\r\n", {"content-type": "multipart/mixed; boundary=parts"}
        )


if __name__ == "__main__":
    kind = {"gs": Google, "az": Azure}[sys.argv[1]]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), kind).serve_forever()
