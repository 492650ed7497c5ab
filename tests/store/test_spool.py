import os
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from app.store import Spool

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BYTES = b"an image"
DIGEST = sha256(BYTES).hexdigest()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def keep(spool: Spool, attempt: str, data: bytes = BYTES) -> None:
    with spool.new_file() as file:
        file.write(data)
        spool.put(attempt, file, sha256(data).hexdigest())


def kept(spool: Spool, attempt: str) -> bytes | None:
    file = spool.open(attempt)
    if file is None:
        return None
    with file:
        file.seek(0)
        return file.read()


def test_what_was_kept_is_there_until_it_is_discarded(spool: Spool) -> None:
    keep(spool, "sub_1")
    keep(spool, "sub_2", b"another")
    first = kept(spool, "sub_1")
    spool.delete("sub_1")

    assert (first, kept(spool, "sub_1"), kept(spool, "sub_2")) == (BYTES, None, b"another")
    assert spool.attempts() == ["sub_2"]


def test_nothing_is_written_twice_where_a_file_can_be_given_a_name(spool: Spool, tmp_path: Path) -> None:
    with spool.new_file() as file:
        file.write(BYTES)
        spool.put("sub_1", file, DIGEST)
        inode = os.fstat(file.fileno()).st_ino

    assert (tmp_path / "aside" / f"sub_1.{DIGEST}").stat().st_ino == inode


def test_a_file_that_cannot_be_given_a_name_is_copied(spool: Spool, tmp_path: Path) -> None:
    with TemporaryFile(dir=tmp_path) as file:
        file.write(BYTES)
        spool.put("sub_1", file, DIGEST)

    assert kept(spool, "sub_1") == BYTES


def test_a_blank_file_is_nowhere_to_be_seen(spool: Spool, tmp_path: Path) -> None:
    with spool.new_file() as file:
        file.write(BYTES)
        seen = list(tmp_path.iterdir())

    assert seen == []


def test_keeping_what_is_kept_changes_nothing(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "sub_1")
    found = spool.open("sub_1")
    assert found is not None
    with found:
        spool.put("sub_1", found, DIGEST)

    assert [path.name for path in (tmp_path / "aside").iterdir()] == [f"sub_1.{DIGEST}"]


def test_what_does_not_fit_its_name_is_removed(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "sub_1")
    (tmp_path / "aside" / f"sub_1.{DIGEST}").write_bytes(BYTES[:-1])

    assert kept(spool, "sub_1") is None
    assert spool.attempts() == []


def test_half_a_copy_that_a_crash_left_is_no_copy_and_goes_with_the_rest(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "sub_1")
    half = tmp_path / "aside" / f"sub_1.{DIGEST}.x1y2.part"
    half.write_bytes(BYTES[:3])
    found = kept(spool, "sub_1")
    spool.delete("sub_1")

    assert found == BYTES
    assert not half.exists()


def test_where_little_room_is_left_nothing_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, spare=1 << 62)

    with pytest.raises(OSError, match="No space left"):
        spool.put("sub_1", BytesIO(BYTES), DIGEST)


def test_a_folder_has_one_name_for_good(tmp_path: Path) -> None:
    name = Spool(tmp_path).instance(NOW)
    (tmp_path / "other").mkdir()

    assert Spool(tmp_path).instance(NOW) == name
    assert Spool(tmp_path / "other").instance(NOW) != name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instance_id", "other"]
