"""Reading a multipart form, limited before it is parsed: texts in memory, files on disk as they arrive."""

import re
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack
from typing import IO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.catalog import Catalog
from app.errors import DiskUnavailable, InvalidRequest, MalformedRequest
from app.images import formats
from app.rules.json_value import JsonValue
from app.store.uploads import Places
from app.web.body import bounded, declared_length
from app.web.members import Files

# As many as four images of 20 MB and the other fields; files go to disk as they arrive.
MAX_MULTIPART_BYTES = 84 * 1024 * 1024
_MULTIPART_TOO_LARGE = f"a multipart body must not exceed {MAX_MULTIPART_BYTES // 1024**2} MB"
_MAX_FIELD_BYTES = 1024 * 1024
_MAX_FIELDS = 40
_MAX_TEXT_BYTES = 2 * 1024 * 1024  # of all fields that are not files, which stay in memory
_MAX_PREAMBLE = 64 * 1024  # bytes before the first part
# The only list. Clients generated from the OpenAPI document send one part for each name, people one part with commas.
LIST_FIELD = "webhook_events"
_INDEXED = re.compile(r"([A-Za-z_]\w*)\[\d{0,3}\]", re.ASCII)
# Form data is UTF-8 (RFC 7578). Other codecs of Python raise other errors or produce lone surrogates.
_CHARSET = re.compile(r";\s*charset\s*=[^;]*", re.IGNORECASE)


async def read_form(
    request: Request,
    catalog: Catalog,
    uploads: Places,
    stack: AsyncExitStack,
    pictures: Collection[str] = (),
) -> tuple[dict[str, JsonValue], Files]:
    """Return the texts and the files of a form by field; those of a list as `field[0]` and so on.

    `pictures`: fields with images besides those of the models. Raises the errors of `read_task`.
    """
    request = bounded(request, MAX_MULTIPART_BYTES, _MULTIPART_TOO_LARGE)
    image_members = {*catalog.image_members, *pictures}
    await stack.enter_async_context(uploads.place(declared_length(request) or MAX_MULTIPART_BYTES))
    headers = Headers({"content-type": _CHARSET.sub("", request.headers["content-type"])})
    parser = _StrictParser(
        headers,
        request.stream(),
        max_files=catalog.max_images,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.open_file = uploads.open
    parser.image_members = image_members
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"the multipart body cannot be read: {error.message}") from error
    except OSError as error:
        raise DiskUnavailable(f"the files cannot be stored: {error.strerror}") from error
    stack.push_async_callback(form.close)
    return _split(form, image_members)


class _StrictParser(MultiPartParser):
    """Limits the texts in memory, and writes files with `open_file`: Starlette's are in memory or in a system folder.

    Requires the closing boundary: without it, an incomplete last part would be dropped without an error. Text before
    the first boundary is skipped (RFC 2046). An image becomes a file, whether it has a file name or not.
    """

    open_file: Callable[[], IO[bytes]]
    image_members: Collection[str]
    _ended = False
    _text_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._text_bytes += end - start
            if self._text_bytes > _MAX_TEXT_BYTES:
                raise MultiPartException(f"its fields that are not files exceed {_MAX_TEXT_BYTES // 1024**2} MB")
        super().on_part_data(data, start, end)

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        name = options.get(b"name", b"").decode("latin-1")
        if b"filename" not in options and _member_of(name) in self.image_members:
            part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()
        upload = part.file
        if upload is not None:
            upload.file.close()
            upload.file = self._files_to_close_on_error[-1] = self.open_file()  # type: ignore[assignment,call-overload]

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        _, options = parse_options_header(self.headers["content-type"])
        self.stream = self._require_end(_without_preamble(self.stream, b"--" + options.get(b"boundary", b"")))
        return await super().parse()

    async def _require_end(self, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in stream:
            yield chunk
        if not self._ended:
            raise MultiPartException("it ends before its closing boundary")


async def _without_preamble(stream: AsyncGenerator[bytes], delimiter: bytes) -> AsyncGenerator[bytes]:
    start = b""
    async for chunk in stream:
        start += chunk
        # The first delimiter starts a line, which may be the first one.
        at = (b"\r\n" + start).find(b"\r\n" + delimiter)
        if at >= 0:
            yield start[at:]
            break
        if len(start) > _MAX_PREAMBLE:
            raise MultiPartException("it does not start with its boundary")
    else:
        yield start
    async for chunk in stream:
        yield chunk


def _split(form: FormData, image_members: Collection[str]) -> tuple[dict[str, JsonValue], Files]:
    """Return texts and files by field. What a browser sends for an input that is not filled in is ignored.

    Several parts with the name of an image, or one whose name ends in `[]`, are a list.
    """
    fields: dict[str, JsonValue] = {}
    images: dict[str, list[str | UploadFile]] = {}
    lists: set[str] = set()
    for name, part in form.multi_items():
        member = _member_of(name)
        is_image = member in image_members
        value = part if isinstance(part, str) or part.filename or not is_image else _text_or_file(name, part)
        if name != "prompt" and (not value.strip() if isinstance(value, str) else _is_empty(value)):
            continue
        if is_image:
            images.setdefault(member, []).append(value)
            if name != member:
                lists.add(member)
        elif name == LIST_FIELD and name in fields and isinstance(value, str):
            fields[name] = f"{fields[name]},{value}"
        elif name in fields:
            raise InvalidRequest(f"{name[:100]}: given more than once", {name[:100]: "given more than once"})
        elif isinstance(value, str):
            fields[name] = value
        else:
            raise InvalidRequest(f"{name[:100]}: must not be a file", {name[:100]: "must not be a file"})
    files: Files = {}
    for member, parts in images.items():
        texts = [part if isinstance(part, str) else None for part in parts]
        is_list = len(parts) > 1 or member in lists
        uploads = {index: part.file for index, part in enumerate(parts) if not isinstance(part, str)}
        files |= {f"{member}[{index}]" if is_list else member: file for index, file in uploads.items()}
        if is_list or texts[0] is not None:
            fields[member] = texts if is_list else texts[0]
    return fields, files


def _member_of(name: str) -> str:
    """Return the member that a part is for: a list may be sent as `images`, `images[]` or `images[0]`."""
    match = _INDEXED.fullmatch(name)
    return match[1] if match is not None else name


def _text_or_file(field: str, part: UploadFile) -> str | UploadFile:
    """Return an image without a file name as text if it is base64 or a URL, and as a file if it is anything else."""
    head = part.file.read(formats.HEAD)
    part.file.seek(0)
    if formats.name_of(head) is not None or not head.isascii():
        return part
    if (part.size or 0) > _MAX_FIELD_BYTES:
        reason = f"more than {_MAX_FIELD_BYTES // 1024**2} MB of text: send the image as a file"
        raise InvalidRequest(f"{field}: {reason}", {field: reason})
    text = part.file.read()
    part.file.seek(0)
    return text.decode() if text.isascii() else part


def _is_empty(upload: UploadFile) -> bool:
    return not upload.filename and not upload.size
