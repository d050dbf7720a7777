# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes that a key of AWS KMS opens, from end to end, with moto's server in place of Amazon's."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from cas3fs.cli.program import run

if TYPE_CHECKING:
    from cas3fs.testing.servers import S3Server

BUCKET = "kms-volumes"


@pytest.fixture
def kms(moto_s3: "S3Server", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of KMS; both services are reached as the environment says, as for users."""
    for name, value in moto_s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto_s3.endpoint_url)
    monkeypatch.setenv("CAS3FS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CAS3FS_CACHE_DIR", str(tmp_path / "cache"))
    moto_s3.make_bucket(BUCKET)
    client = boto3.client("kms")
    yield client
    client.close()


def new_key(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


class KmsVolume:
    """A volume that a key of KMS opens."""

    def __init__(self, name: str, arn: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = f"s3://{BUCKET}/{name}"
        self.arn = arn
        self._capsys = capsys
        self.made = json.loads(self.run("mkfs", "--encrypt", "--kms-key", arn, "--json"))

    def run(self, verb: str, *words: str, status: int = 0) -> str:
        assert run([*verb.split(), self.url, *words]) == status
        told = self._capsys.readouterr()
        return told.err if status else told.out

    def keys(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("key list", "--json", *words))
        return found


@pytest.fixture
def volume(request: pytest.FixtureRequest, kms: Any, capsys: pytest.CaptureFixture[str]) -> KmsVolume:
    return KmsVolume(f"v{abs(hash(request.node.name))}", new_key(kms), capsys)


def test_a_key_of_kms_opens_the_volume(volume: KmsVolume) -> None:
    assert volume.made["cipher"]
    (only,) = volume.keys("--kms-key", volume.arn)
    assert (only["method"], only["kms_key"], only["used_now"]) == ("kms", volume.arn, True)
    assert volume.run("snapshot create", "--kms-key", volume.arn)


def test_another_key_of_kms_opens_nothing(volume: KmsVolume, kms: Any) -> None:
    other = new_key(kms)
    assert f"has no key entry of {other}" in volume.run("epochs", "--kms-key", other, status=1)


def test_the_environment_may_name_the_key(volume: KmsVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAS3FS_KMS_KEY", volume.arn)
    assert len(volume.keys()) == 1


class _Refusing(BaseHTTPRequestHandler):
    """Answers as KMS does where a policy forbids the use of a key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"__type": "AccessDeniedException", "message": "not authorized to perform: kms:Decrypt"}'
        self.send_response(400)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def refusing_kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Puts a server that refuses everything in the place of KMS, when it is called."""
    with HTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield lambda: monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_a_refusal_of_kms_is_an_error_in_one_line(volume: KmsVolume, refusing_kms: Callable[[], None]) -> None:
    refusing_kms()
    told = volume.run("epochs", "--kms-key", volume.arn, status=1)
    assert told.startswith(f"cas3fs: KMS does not decrypt with {volume.arn}: ")
    assert "not authorized to perform: kms:Decrypt" in told
    assert told.count("\n") == 1


def test_a_key_of_kms_that_does_not_exist_makes_no_volume(kms: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    assert run(["mkfs", "--encrypt", "--kms-key", arn, f"s3://{BUCKET}/none"]) == 1
    assert "KMS does not give a data key" in capsys.readouterr().err
    assert run(["epochs", f"s3://{BUCKET}/none"]) == 1
    assert "there is no volume" in capsys.readouterr().err


def test_keys_of_kms_are_added_and_replaced(volume: KmsVolume, kms: Any) -> None:
    second, third = new_key(kms), new_key(kms)
    volume.run("key add", "--kms-key", volume.arn, "--new-kms-key", second, "--note", "second")
    volume.run("key change", "--kms-key", second, "--new-kms-key", third)
    assert [(one["kms_key"], one["note"]) for one in volume.keys("--kms-key", third)][1:] == [(third, "second")]
    assert "has no key entry" in volume.run("epochs", "--kms-key", second, status=1)


def test_a_new_root_is_sealed_for_the_keys_of_kms_that_stay(volume: KmsVolume, kms: Any) -> None:
    second = new_key(kms)
    volume.run("key add", "--kms-key", volume.arn, "--new-kms-key", second)
    volume.run("key rotate", "--root", "--kms-key", volume.arn, "--keep-kms-key", second)
    assert [one["kms_key"] for one in volume.keys("--kms-key", second)] == [volume.arn, second]


def test_kms_binds_a_data_key_to_its_volume(volume: KmsVolume, kms: Any) -> None:
    from cas3fs.errors import SecretWrong
    from cas3fs.objectstores.kms import KmsKey

    made = KmsKey(volume.arn).make(volume.made["uuid"])
    assert KmsKey(volume.arn).decrypt(made.encrypted, volume.made["uuid"]) == made.plain
    with pytest.raises(SecretWrong, match="does not decrypt"):
        KmsKey(volume.arn).decrypt(made.encrypted, "00000000-0000-0000-0000-000000000000")
