# SPDX-License-Identifier: GPL-3.0-or-later
"""Mending the index with itself: a repair for each code, each within one operation.

The order in which they are done: inodes come into being before names are given, names before links are counted. What
one repair uncovers is found by the next check, so checking and mending alternate until nothing changes any more; and a
repair leaves alone what an earlier one of the same round has made right. A process that dies in between leaves what was
mended before, or nothing of it.

No file system may be at work on the index: what it holds in memory would be written over the repair.
"""

import stat
from collections.abc import Callable, Mapping
from typing import Any, Final

from cas3fs.errors import Cas3fsError
from cas3fs.index import Index, Repairs
from cas3fs.maintenance.fsck.findings import Finding

ORDER: Final = (
    "root-missing",
    "root-named",
    "size-negative",
    "content-without-inode",
    "target-without-inode",
    "attribute-without-inode",
    "wrong-type",
    "link-without-target",
    "target-of-no-link",
    "chunks-of-no-file",
    "name-without-inode",
    "name-in-no-folder",
    "folder-with-many-names",
    "inode-without-name",
    "unreachable",
    "chunk-impossible",
    "chunks-overlap",
    "chunk-without-block",
    "chunk-past-block",
    "chunk-past-end",
    "pack-dead-but-used",
    "pack-dead-before-born",
    "pack-born-in-future",
    "wrong-link-count",
)
_FILE: Final = stat.S_IFREG | 0o600
_LINK: Final = stat.S_IFLNK | 0o777


class IndexRepairer:
    """Mends an index; see the module."""

    def __init__(self, index: Index, next_ordinal: int) -> None:
        self._index = index
        self._next = next_ordinal
        self._do = index.repairs()
        self._ways: Mapping[str, Callable[[Repairs, Mapping[str, Any]], None]] = {
            code: getattr(self, "_" + code.replace("-", "_")) for code in ORDER
        }

    def repair(self, findings: list[Finding]) -> list[Finding]:
        """Mends those that it can; gives them. What fails is undone, and left.

        Raises:
            IndexDatabaseError: the group was lost.
        """
        mended = []
        for code in ORDER:
            for finding in (one for one in findings if one.code == code):
                try:
                    with self._index.operation():
                        self._ways[code](self._do, finding.touches)
                except Cas3fsError as error:
                    if getattr(error, "group_lost", False):
                        raise
                    continue
                mended.append(finding)
        return mended

    # -- inodes

    @staticmethod
    def _root_missing(do: Repairs, defect: Mapping[str, Any]) -> None:
        try:
            do.add_inode(1, stat.S_IFDIR | 0o755)
        except Cas3fsError:  # it is there, and no folder
            do.set_mode(1, stat.S_IFDIR | 0o755)

    @staticmethod
    def _root_named(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.drop_name(defect["id"])

    @staticmethod
    def _size_negative(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_size(defect["inode"], 0)

    @staticmethod
    def _content_without_inode(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.add_inode(defect["inode"], _FILE, defect["size"])

    @staticmethod
    def _target_without_inode(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.add_inode(defect["inode"], _LINK, len(defect["target"]))

    @staticmethod
    def _attribute_without_inode(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.drop_attribute(defect["inode"], defect["name"])

    @staticmethod
    def _wrong_type(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_mode(defect["inode"], do.type_shown(defect["inode"]) | 0o600)

    @staticmethod
    def _link_without_target(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_mode(defect["inode"], _FILE)
        do.set_size(defect["inode"], 0)

    @staticmethod
    def _target_of_no_link(do: Repairs, defect: Mapping[str, Any]) -> None:
        inode, size = defect["inode"], len(defect["target"])
        mode = do.mode_of(inode) or 0
        if stat.S_ISLNK(mode):
            return  # it has become one by an earlier repair
        if stat.S_ISREG(mode) and not do.has_chunks(inode):
            do.set_mode(inode, _LINK)
            do.set_size(inode, size)
        else:
            number = do.add_inode(None, _LINK, size)
            do.move_target(inode, number)
            do.attach(number, b"from-%d" % inode)

    @staticmethod
    def _chunks_of_no_file(do: Repairs, defect: Mapping[str, Any]) -> None:
        if stat.S_ISREG(do.mode_of(defect["inode"]) or 0):
            return  # it has become one by an earlier repair
        number = do.add_inode(None, _FILE)
        do.move_chunks(defect["inode"], number)
        do.attach(number, b"from-%d" % defect["inode"])

    # -- names

    @staticmethod
    def _name_without_inode(do: Repairs, defect: Mapping[str, Any]) -> None:
        if do.mode_of(defect["inode"]) is None:  # it may have come back by an earlier repair
            do.drop_name(defect["id"])

    @staticmethod
    def _name_in_no_folder(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.drop_name(defect["id"])
        do.attach(defect["inode"], defect["name"])

    @staticmethod
    def _folder_with_many_names(do: Repairs, defect: Mapping[str, Any]) -> None:
        for entry, _, _ in do.names_of(defect["inode"])[1:]:
            do.drop_name(entry)

    @staticmethod
    def _inode_without_name(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.attach(defect["inode"])

    @staticmethod
    def _unreachable(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.drop_name(defect["id"])
        do.attach(defect["inode"], defect["name"])

    @staticmethod
    def _wrong_link_count(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_links(defect["inode"], defect["counted"])

    # -- chunks

    @staticmethod
    def _chunk_impossible(do: Repairs, defect: Mapping[str, Any]) -> None:
        inode, offset, length = defect["inode"], defect["offset"], defect["length"]
        do.shorten_chunk(inode, offset, 0)
        if offset >= 0 and length > 0:
            do.add_lost_range(inode, offset, length)

    @staticmethod
    def _chunks_overlap(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.shorten_chunk(defect["inode"], defect["offset"], defect["following"] - defect["offset"])

    @staticmethod
    def _chunk_without_block(do: Repairs, defect: Mapping[str, Any]) -> None:
        if not do.has_block(defect["block"]):  # chunks that share a block are mended together
            do.add_lost_block(defect["block"], defect["skip"] + defect["length"])

    @staticmethod
    def _chunk_past_block(do: Repairs, defect: Mapping[str, Any]) -> None:
        inode, offset, length = defect["inode"], defect["offset"], defect["length"]
        whole = max(0, defect["plain_length"] - defect["skip"])
        do.shorten_chunk(inode, offset, whole)
        do.add_lost_range(inode, offset + whole, length - whole)

    @staticmethod
    def _chunk_past_end(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_size(defect["inode"], defect["reaches"])

    # -- packs

    @staticmethod
    def _pack_dead_but_used(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.revive(defect["pack"])

    def _pack_dead_before_born(self, do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_died(defect["pack"], max(self._next, defect["born"] + 1))

    @staticmethod
    def _pack_born_in_future(do: Repairs, defect: Mapping[str, Any]) -> None:
        do.set_born(defect["pack"], 0)
