# SPDX-License-Identifier: GPL-3.0-or-later
"""Repairs defects within the index: one repair for each code of a finding, each within one operation.

They are done in a fixed order: inodes are created before they get names, and they get names before links are counted.
What one repair uncovers is found by the next check, so checks and repairs alternate until nothing changes any more; and
a repair leaves alone what an earlier one of the same round has put right. A crash keeps what was repaired before.

No file system may be using the index: what it holds in memory would be written over the repair.
"""

import stat
from collections.abc import Callable, Mapping
from typing import Any, Final

from cas3fs.errors import Cas3fsError
from cas3fs.index import Index
from cas3fs.index.repairs import Repairs
from cas3fs.maintenance.fsck.findings import Finding

_FILE: Final = stat.S_IFREG | 0o600
_LINK: Final = stat.S_IFLNK | 0o777


class IndexRepairer:
    """Repairs an index; within an operation."""

    def __init__(self, index: Index, next_ordinal: int) -> None:
        self._index = index
        self._next_ordinal = next_ordinal
        # in the order in which they are done
        self._repairs: Mapping[str, Callable[[Repairs, Mapping[str, Any]], None]] = {
            "root-missing": self._root_missing,
            "root-named": self._root_named,
            "size-negative": self._size_negative,
            "content-without-inode": self._content_without_inode,
            "target-without-inode": self._target_without_inode,
            "attribute-without-inode": self._attribute_without_inode,
            "wrong-type": self._wrong_type,
            "link-without-target": self._link_without_target,
            "target-of-no-link": self._target_of_no_link,
            "chunks-of-no-file": self._chunks_of_no_file,
            "name-without-inode": self._name_without_inode,
            "name-in-no-folder": self._name_in_no_folder,
            "folder-with-many-names": self._folder_with_many_names,
            "inode-without-name": self._inode_without_name,
            "unreachable": self._unreachable,
            "chunk-impossible": self._chunk_impossible,
            "chunks-overlap": self._chunks_overlap,
            "chunk-without-block": self._chunk_without_block,
            "chunk-past-block": self._chunk_past_block,
            "chunk-past-end": self._chunk_past_end,
            "pack-dead-but-used": self._pack_dead_but_used,
            "pack-dead-before-born": self._pack_dead_before_born,
            "pack-born-in-future": self._pack_born_in_future,
            "wrong-link-count": self._wrong_link_count,
        }

    def repair(self, findings: list[Finding]) -> list[Finding]:
        """Repairs the findings that it can. A repair that fails is undone.

        Returns:
            Those that were repaired.

        Raises:
            IndexDatabaseError: everything since the last commit was lost.
        """
        repaired = []
        repairs = self._index.repairs()
        for code, repair in self._repairs.items():
            for finding in (one for one in findings if one.code == code):
                try:
                    with self._index.operation():
                        repair(repairs, finding.touches)
                except Cas3fsError as error:
                    if getattr(error, "group_lost", False):
                        raise
                    continue
                repaired.append(finding)
        return repaired

    # -- inodes

    @staticmethod
    def _root_missing(index: Repairs, defect: Mapping[str, Any]) -> None:
        try:
            index.add_inode(1, stat.S_IFDIR | 0o755)
        except Cas3fsError:  # the inode exists, and is not a directory
            index.set_mode(1, stat.S_IFDIR | 0o755)

    @staticmethod
    def _root_named(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.drop_name(defect["id"])

    @staticmethod
    def _size_negative(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_size(defect["inode"], 0)

    @staticmethod
    def _content_without_inode(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.add_inode(defect["inode"], _FILE, defect["size"])

    @staticmethod
    def _target_without_inode(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.add_inode(defect["inode"], _LINK, len(defect["target"]))

    @staticmethod
    def _attribute_without_inode(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.drop_attribute(defect["inode"], defect["name"])

    @staticmethod
    def _wrong_type(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_mode(defect["inode"], index.type_shown(defect["inode"]) | 0o600)

    @staticmethod
    def _link_without_target(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_mode(defect["inode"], _FILE)
        index.set_size(defect["inode"], 0)

    @staticmethod
    def _target_of_no_link(index: Repairs, defect: Mapping[str, Any]) -> None:
        inode, size = defect["inode"], len(defect["target"])
        mode = index.mode_of(inode) or 0
        if stat.S_ISLNK(mode):
            return  # an earlier repair has made it one
        if stat.S_ISREG(mode) and not index.has_chunks(inode):
            index.set_mode(inode, _LINK)
            index.set_size(inode, size)
        else:
            number = index.add_inode(None, _LINK, size)
            index.move_target(inode, number)
            index.attach(number, b"from-%d" % inode)

    @staticmethod
    def _chunks_of_no_file(index: Repairs, defect: Mapping[str, Any]) -> None:
        if stat.S_ISREG(index.mode_of(defect["inode"]) or 0):
            return  # an earlier repair has made it one
        number = index.add_inode(None, _FILE)
        index.move_chunks(defect["inode"], number)
        index.attach(number, b"from-%d" % defect["inode"])

    # -- names

    @staticmethod
    def _name_without_inode(index: Repairs, defect: Mapping[str, Any]) -> None:
        if index.mode_of(defect["inode"]) is None:  # an earlier repair may have created it
            index.drop_name(defect["id"])

    @staticmethod
    def _name_in_no_folder(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.drop_name(defect["id"])
        index.attach(defect["inode"], defect["name"])

    @staticmethod
    def _folder_with_many_names(index: Repairs, defect: Mapping[str, Any]) -> None:
        for entry, _, _ in index.names_of(defect["inode"])[1:]:
            index.drop_name(entry)

    @staticmethod
    def _inode_without_name(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.attach(defect["inode"])

    @staticmethod
    def _unreachable(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.drop_name(defect["id"])
        index.attach(defect["inode"], defect["name"])

    @staticmethod
    def _wrong_link_count(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_links(defect["inode"], defect["counted"])

    # -- chunks

    @staticmethod
    def _chunk_impossible(index: Repairs, defect: Mapping[str, Any]) -> None:
        inode, offset, length = defect["inode"], defect["offset"], defect["length"]
        index.shorten_chunk(inode, offset, 0)
        if offset >= 0 and length > 0:
            index.add_lost_range(inode, offset, length)

    @staticmethod
    def _chunks_overlap(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.shorten_chunk(defect["inode"], defect["offset"], defect["following"] - defect["offset"])

    @staticmethod
    def _chunk_without_block(index: Repairs, defect: Mapping[str, Any]) -> None:
        if not index.has_block(defect["block"]):  # chunks that share a block are repaired together
            index.add_lost_block(defect["block"], defect["skip"] + defect["length"])

    @staticmethod
    def _chunk_past_block(index: Repairs, defect: Mapping[str, Any]) -> None:
        inode, offset, length = defect["inode"], defect["offset"], defect["length"]
        whole = max(0, defect["plain_length"] - defect["skip"])
        index.shorten_chunk(inode, offset, whole)
        index.add_lost_range(inode, offset + whole, length - whole)

    @staticmethod
    def _chunk_past_end(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_size(defect["inode"], defect["reaches"])

    # -- packs

    @staticmethod
    def _pack_dead_but_used(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.revive(defect["pack"])

    def _pack_dead_before_born(self, index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_died(defect["pack"], max(self._next_ordinal, defect["born"] + 1))

    @staticmethod
    def _pack_born_in_future(index: Repairs, defect: Mapping[str, Any]) -> None:
        index.set_born(defect["pack"], 0)
