# SPDX-License-Identifier: GPL-3.0-or-later
"""URLs, and what they open."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.config import StoreSettings
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.objectstores import open_store, parse_url
from cas3fs.objectstores.urls import StoreUrl


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", StoreUrl("s3", "bucket")),
        ("s3://bucket/", StoreUrl("s3", "bucket")),
        ("s3://bucket//a//b/", StoreUrl("s3", "bucket", "a/b")),
        ("s3://my.bucket-1/ä b/%41", StoreUrl("s3", "my.bucket-1", "ä b/%41")),
        ("file:///srv/volume/", StoreUrl("file", "/srv/volume")),
        ("file:////srv//my%20volume", StoreUrl("file", "/srv/my volume")),
        ("file:///srv/my volume", StoreUrl("file", "/srv/my volume")),
        ("file://localhost/srv", StoreUrl("file", "/srv")),
        ("memory://x", StoreUrl("memory", "x")),
    ],
)
def test_a_url_has_one_meaning_and_one_spelling(url: str, expected: StoreUrl) -> None:
    assert parse_url(url) == expected
    assert parse_url(str(expected)) == expected


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and text.strip("/.")))
def test_the_url_of_any_path_leads_back_to_it(text: str) -> None:
    path = Path("/srv") / text.replace("/", "_")
    assert parse_url(str(StoreUrl("file", str(path)))).place == str(path)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "s3://BUCKET/PREFIX or file:///DIRECTORY"),
        ("gs://bucket", "s3://BUCKET/PREFIX or file:///DIRECTORY"),
        ("s3:/bucket", "s3://BUCKET/PREFIX or file:///DIRECTORY"),
        ("/srv/volume", "did you mean file:///srv/volume"),
        ("s3://", "no valid bucket"),
        ("s3:///prefix", "no valid bucket"),
        ("s3://a b", "no valid bucket"),
        ("s3://bucket/../x", "prefix"),
        ("s3://bucket/a\nb", "prefix"),
        ("s3://bucket/" + "a" * 401, "prefix"),
        ("file://srv/volume", "file:///ABSOLUTE/PATH"),
        ("file://srv", "file:///ABSOLUTE/PATH"),
    ],
)
def test_an_invalid_url_is_refused_with_a_hint(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)


def test_a_store_has_the_normalized_url(tmp_path: Path) -> None:
    folder = tmp_path / "my volume"
    folder.mkdir()
    for url in (f"file://{folder}/", f"file:///{folder}", folder.as_uri()):
        store = open_store(StoreSettings(url), metrics=Metrics())
        assert store.url == folder.as_uri()
        store.close()
    assert open_store(StoreSettings("s3://bucket/a/"), metrics=Metrics()).url == "s3://bucket/a"


def test_bandwidth_can_be_limited(tmp_path: Path) -> None:
    settings = StoreSettings(tmp_path.as_uri(), upload_bytes_per_s=1e9, download_bytes_per_s=1e9)
    store = open_store(settings, metrics=Metrics())
    store.put_if_absent("a", b"bytes")
    assert store.get("a") == b"bytes"
    store.close()


def test_boto3_is_not_imported_for_a_store_in_a_directory(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from cas3fs.config import StoreSettings, VolumeSettings\n"
        "from cas3fs.commands import gc, mount\n"
        "from cas3fs.commands.mkfs import create_volume\n"
        "from cas3fs.volume.loading import load_volume, open_volume_store\n"
        "from cas3fs.metrics import Metrics\n"
        f"settings = StoreSettings({tmp_path.as_uri()!r})\n"
        "create_volume(settings, VolumeSettings())\n"
        "load_volume(open_volume_store(settings, Metrics()))\n"
        "print([name for name in sys.modules if name.startswith(('boto', 's3transfer', 'urllib3'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("url", "parents"),
    [
        ("s3://bucket", []),
        ("s3://bucket/a/b", [("s3://bucket/a", "b"), ("s3://bucket", "a")]),
        ("file:///a/b", [("file:///a", "b"), ("file:///", "a")]),
        ("memory://a", []),
    ],
)
def test_a_url_has_parents(url: str, parents: list[tuple[str, str]]) -> None:
    assert [(str(outer), name) for outer, name in parse_url(url).parents()] == parents
