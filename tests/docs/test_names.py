# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages on testing and caches name classes, fixtures, faults and functions that exist, and all faults."""

import builtins
import re
from pathlib import Path

from cas3fs.testing import plugin
from cas3fs.testing.failpoints import FAILPOINTS
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.sqlite_faults import SqliteFault

ROOT = Path(__file__).parents[2]
TESTING = (ROOT / "docs" / "testing.rst").read_text()
CACHES = (ROOT / "docs" / "caches.rst").read_text()
OF_OTHERS = {"Client", "IfNoneMatch", "ChecksumSHA256", "ObjectLockEnabledForBucket"}


def test_the_classes_that_are_named_exist() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "cas3fs").rglob("*.py"))
    named = set(re.findall(r"``([A-Z][a-z0-9]+(?:[A-Z]\w*)?)\b[^`]*``", TESTING + CACHES)) - OF_OTHERS
    named = {name for name in named if not hasattr(builtins, name)}
    assert {"FakeS3", "FaultyStore", "CacheSpec"} <= named
    assert [name for name in sorted(named) if not re.search(rf"^class {name}\b", code, re.MULTILINE)] == []


def test_the_table_of_faults_has_every_kind() -> None:
    assert set(re.findall(r'^   "``(\w+)``"', TESTING, re.MULTILINE)) == {kind.name for kind in FaultKind}


def test_the_fixtures_that_are_named_exist() -> None:
    section = TESTING.partition("Fixtures\n--------")[2].partition("\n\n\n")[0]
    assert [name for name in re.findall(r"^``(\w+)``$", section, re.MULTILINE) if not hasattr(plugin, name)] == []


def test_the_functions_that_damage_stores_exist() -> None:
    module = (ROOT / "cas3fs" / "testing" / "store_damage.py").read_text()
    sentence = TESTING.partition("``cas3fs.testing.store_damage`` has")[2].partition("\n\n")[0]
    named = re.findall(r"``(\w+)``", sentence)
    assert len(named) > 4
    assert [name for name in named if f"\ndef {name}(" not in module] == []


def test_the_programs_that_are_run_with_python_get_what_they_know() -> None:
    commands = re.findall(r"^ +\$ python -m cas3fs\.testing\.(\w+) (.*)$", TESTING, re.MULTILINE)
    words = [(module, *arguments.split()) for module, arguments in commands]
    failpoints = [one[2].partition(":")[0] for one in words if one[:2] == ("failpoints", "kill")]
    assert failpoints
    assert set(failpoints) <= set(FAILPOINTS)
    assert {one[1] for one in words if one[0] == "sqlite_faults"} <= {fault.name for fault in SqliteFault}
    assert {one[0] for one in words} == {"failpoints", "sqlite_faults", "random_faults"}
