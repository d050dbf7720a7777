# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/store-compatibility.rst names the operations that the S3 store uses, and a policy that allows just these."""

import ast
import json
import re
import textwrap
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "store-compatibility.rst").read_text()
RIGHTS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObjects": "s3:DeleteObject",
    "DeleteObject": "s3:DeleteObject",
}


@pytest.mark.usefixtures("need_fuse")
def test_a_read_only_mount_neither_puts_nor_deletes(cas3fs_mount: TemporaryMount, tmp_path: Path) -> None:
    (cas3fs_mount / "f").write_bytes(b"content")
    cas3fs_mount.down()
    reader = TemporaryMount(cas3fs_mount.volume.on_another_machine(tmp_path), tmp_path / "mnt", cas3fs_mount.options)
    reader.up("--read-only")
    try:
        assert (reader / "f").read_bytes() == b"content"
        process = reader.stats()["process"]
    finally:
        reader.down()
    assert (process["store.put.count"], process["store.delete.count"]) == (0, 0)
    assert process["store.get.count"] > 0


def used_operations() -> set[str]:
    """The operations whose methods of boto3's client are called anywhere in the package's stores."""
    calls = set()
    for module in (ROOT / "cas3fs" / "objectstores").glob("s3*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self._client":
                calls.add(node.attr)
    return {"".join(part.capitalize() for part in name.split("_")) for name in calls - {"meta"}}


def test_the_page_names_every_operation_that_is_used() -> None:
    paragraph = PAGE.partition("cas3fs uses seven operations")[2].partition(".")[0]
    assert set(re.findall(r"``(\w+)``", paragraph)) == used_operations() == set(RIGHTS)


def test_the_policy_allows_these_operations_and_no_more() -> None:
    policy = json.loads(textwrap.dedent(PAGE.partition(".. code-block:: json\n\n")[2].partition("\n\n``s3")[0]))
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed == set(RIGHTS.values())
