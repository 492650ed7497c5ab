"""Checks all rows of a batch, with the models of the service, before anything is sent."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.catalog import DEFAULT_MODEL, Catalog, ImageRules, Model
from app.cli.batch.rows import Request, Row, is_address, request
from app.errors import InvalidRequest
from app.images import formats
from app.params import OPTIONS
from app.web.members import Leniency, options_from_json, options_from_texts, to_params

_FORMATS = frozenset({"JPEG", "PNG", "WebP"})
_GENERIC = "image"


@dataclass(frozen=True, slots=True)
class Checked:
    """The requests of the good rows, the faults of the others, and the estimated price."""

    requests: Sequence[Request]
    faults: Sequence[str]
    credits: float
    unpriced: int  # rows without a known price


def model_of(view: Mapping[str, Any]) -> Model:
    """Return a row of the catalog from its view in the API. What the API does not show is unlimited here."""
    rules = view["images"]
    images = ImageRules(
        rules["style"], tuple(rules["members"]), rules["max"], rules["max_bytes"], rules["max_pixels"], min_side=0
    )
    names = ("id", "kind", "status", "note", "strict", "link_life_s", "usual_s", "longest_s", "credits", "price")
    return Model(
        **{name: view[name] for name in names},
        path="",
        webhook=True,
        images=images,
        slots=None,
        edit_tolerance=None,
        max_output_pixels=None,
        without_images={},
        send_defaults=(),
        sure="low",
        sources=(),
        request=view["request"],
    )


def check(rows: Sequence[Row], models: Sequence[Model], folder: Path, name: str) -> Checked:
    """Check all rows. Files are named relative to `folder`, that of the input."""
    catalog = Catalog(models)
    requests, faults = list[Request](), list[str]()
    price, unpriced = 0.0, 0
    for row in rows:
        try:
            checked, model = _checked(row, catalog, folder, name)
        except InvalidRequest as error:
            faults.append(f"row {row.number} (line {row.line}): {error.detail}")
        else:
            requests.append(checked)
            price += model.credits or 0
            unpriced += model.credits is None
    return Checked(requests, faults, price, unpriced)


def _checked(row: Row, catalog: Catalog, folder: Path, name: str) -> tuple[Request, Model]:
    """Check one row as the service does. Raises InvalidRequest."""
    if row.fault is not None:
        raise InvalidRequest(row.fault)
    model = catalog.model(str(row.fields.get("model", DEFAULT_MODEL)))
    fields, files = _images(row, model.images, folder)
    members = {name: value for name, value in fields.items() if name != "model"}
    handles = {slot: io.BytesIO() for slot in _slots(files, model.images)}
    read_options = options_from_texts if row.is_text else options_from_json
    leniency = Leniency.TEXTS if row.is_text else Leniency.STRICT
    to_params(catalog, model, members, dict(handles), read_options, OPTIONS, leniency=leniency)
    try:
        return request(row, files, {**fields, "model": model.id}, name), model
    except OSError as error:
        raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}") from error


def _images(row: Row, rules: ImageRules, folder: Path) -> tuple[dict[str, Any], list[tuple[str, Path]]]:
    """Split the values of a row into fields and files of images. Raises InvalidRequest."""
    fields: dict[str, Any] = {}
    files: list[tuple[str, Path]] = []
    for column, value in row.fields.items():
        member = _member(column, rules)
        if member is None:
            fields[column] = value
            continue
        given = value if isinstance(value, list) else [value]
        addresses = [one for one in given if not isinstance(one, str) or is_address(one)]
        files += [(member, _file(column, folder / one, rules)) for one in given if one not in addresses]
        if addresses and len(addresses) != len(given):
            raise InvalidRequest(f"{column}: give either files or addresses, not both")
        if addresses:
            fields[member] = value
    return fields, files


def _member(column: str, rules: ImageRules) -> str | None:
    """Return the field that a column of images is for: `image`, `image_2` and so on are the fields in their order."""
    if column in rules.members:
        return column
    if rules.style == "list" and column.partition("[")[0] in rules.members:
        return rules.members[0]
    generic, _, number = column.partition("_")
    if generic != _GENERIC or not (number.isdecimal() or not number) or not rules.members:
        return None
    index = int(number or 1) - 1
    if rules.style == "list":
        return rules.members[0] if index < rules.max else None
    return rules.members[index] if index < len(rules.members) else None


def _file(column: str, path: Path, rules: ImageRules) -> Path:
    """Require an image file that the model takes. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            head = file.read(formats.HEAD)
        size = path.stat().st_size
    except OSError as error:
        raise InvalidRequest(f"{column}: {path} cannot be read: {error.strerror}") from error
    kind = formats.name_of(head)
    if kind not in _FORMATS:
        raise InvalidRequest(f"{column}: {path} is {kind or 'not an image'}: give JPEG, PNG or WebP")
    if size > rules.max_bytes:
        raise InvalidRequest(f"{column}: {path} has {size} bytes, and at most {rules.max_bytes} are taken")
    return path


def _slots(files: Sequence[tuple[str, Path]], rules: ImageRules) -> Iterator[str]:
    counts: dict[str, int] = {}
    for member, _ in files:
        index = counts.get(member, 0)
        counts[member] = index + 1
        yield f"{member}[{index}]" if rules.style == "list" else member
