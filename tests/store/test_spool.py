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


def test_a_spooled_file_exists_until_it_is_deleted(spool: Spool) -> None:
    keep(spool, "sub_1")
    keep(spool, "sub_2", b"another")
    first = kept(spool, "sub_1")
    spool.delete("sub_1")

    assert (first, kept(spool, "sub_1"), kept(spool, "sub_2")) == (BYTES, None, b"another")
    assert spool.attempts() == ["sub_2"]


def test_an_unnamed_file_is_linked_and_not_copied(spool: Spool, tmp_path: Path) -> None:
    with spool.new_file() as file:
        file.write(BYTES)
        spool.put("sub_1", file, DIGEST)
        inode = os.fstat(file.fileno()).st_ino

    assert (tmp_path / "aside" / f"sub_1.{DIGEST}").stat().st_ino == inode


def test_a_file_that_cannot_be_linked_is_copied(spool: Spool, tmp_path: Path) -> None:
    with TemporaryFile(dir=tmp_path) as file:
        file.write(BYTES)
        spool.put("sub_1", file, DIGEST)

    assert kept(spool, "sub_1") == BYTES


def test_a_new_file_has_no_name(spool: Spool, tmp_path: Path) -> None:
    with spool.new_file() as file:
        file.write(BYTES)
        seen = list(tmp_path.iterdir())

    assert seen == []


def test_putting_a_spooled_file_again_changes_nothing(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "sub_1")
    found = spool.open("sub_1")
    assert found is not None
    with found:
        spool.put("sub_1", found, DIGEST)

    assert [path.name for path in (tmp_path / "aside").iterdir()] == [f"sub_1.{DIGEST}"]


def test_a_file_whose_content_contradicts_its_name_is_deleted(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "sub_1")
    (tmp_path / "aside" / f"sub_1.{DIGEST}").write_bytes(BYTES[:-1])

    assert kept(spool, "sub_1") is None
    assert spool.attempts() == []


def test_a_partial_copy_of_a_crash_is_ignored_and_deleted_with_the_file(spool: Spool, tmp_path: Path) -> None:
    keep(spool, "sub_1")
    half = tmp_path / "aside" / f"sub_1.{DIGEST}.x1y2.part"
    half.write_bytes(BYTES[:3])
    found = kept(spool, "sub_1")
    spool.delete("sub_1")

    assert found == BYTES
    assert not half.exists()


def test_nothing_is_spooled_if_little_disk_space_is_left(tmp_path: Path) -> None:
    spool = Spool(tmp_path, spare=1 << 62)

    with pytest.raises(OSError, match="No space left"):
        spool.put("sub_1", BytesIO(BYTES), DIGEST)


def test_a_data_folder_has_one_permanent_instance_id(tmp_path: Path) -> None:
    name = Spool(tmp_path).instance(NOW)
    (tmp_path / "other").mkdir()

    assert Spool(tmp_path).instance(NOW) == name
    assert Spool(tmp_path / "other").instance(NOW) != name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instance_id", "other"]
