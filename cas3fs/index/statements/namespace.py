# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of `cas3fs.index.namespace`."""

from sqlalchemy import ColumnElement, column, delete, insert, literal_column, select, table, update
from sqlalchemy.dialects.sqlite import insert as upsert

from cas3fs.index.statements.writing import Written, count_param, param
from cas3fs.index.tables import chunks, dentries, inodes, symlinks, xattrs

_SAVED_COLUMNS = ("mode", "uid", "gid", "nlink", "rdev", "size", "atime_ns", "mtime_ns", "ctime_ns")
_NEW_COLUMNS = (*_SAVED_COLUMNS, "crtime_ns")
_ATTRIBUTE_COLUMNS = ("mode", "uid", "gid", "nlink", "atime_ns")
_TOLD = (*("id", *_NEW_COLUMNS), "stored_seq")
_ROW = tuple(inodes.c[name] for name in _TOLD)
_ZERO: ColumnElement[int] = literal_column("0")
_ONE: ColumnElement[int] = literal_column("1")
_THIS_INODE = inodes.c.id == param("inode")
_THIS_ENTRY = (dentries.c.parent == param("parent")) & (dentries.c.name == param("name"))
INSERT_INODE = Written(
    insert(inodes).values({name: param(name) for name in _NEW_COLUMNS} | {"stored_seq": _ZERO}).inline(),
    " ".join(_NEW_COLUMNS),
)
INSERT_NUMBERED = Written(
    insert(inodes).values({name: param(name) for name in ("id", *_NEW_COLUMNS)} | {"stored_seq": _ZERO}).inline(),
    " ".join(("id", *_NEW_COLUMNS)),
)
LAST_NUMBERS = Written(
    select(column("name"), column("seq"))
    .select_from(table("sqlite_sequence"))
    .where(column("name").in_([literal_column("'inodes'"), literal_column("'dentries'")]))
)
INODE = Written(select(*_ROW).where(_THIS_INODE), "inode")
SAVE_INODE = Written(
    update(inodes).where(_THIS_INODE).values({name: param(name) for name in _SAVED_COLUMNS}),
    " ".join(("inode", *_SAVED_COLUMNS)),
)
SAVE_ATTRIBUTES = Written(
    update(inodes).where(_THIS_INODE).values({name: param(name) for name in _ATTRIBUTE_COLUMNS}),
    " ".join(("inode", *_ATTRIBUTE_COLUMNS)),
)
REMOVALS = tuple(
    Written(delete(column.table).where(column == param("inode")), "inode")
    for column in (inodes.c.id, chunks.c.inode, symlinks.c.inode, xattrs.c.inode)
)
# by the count alone: to look for the names too takes five times as long, at each mount (0.4 s for a million)
UNLINKED = Written(select(inodes.c.id).where(inodes.c.nlink == _ZERO).order_by(inodes.c.id))
LOOKUP = Written(
    select(*_ROW).select_from(dentries.join(inodes, inodes.c.id == dentries.c.inode)).where(_THIS_ENTRY),
    "parent name",
)
CHILD = Written(select(dentries.c.id, dentries.c.inode).where(_THIS_ENTRY), "parent name")
ADD_ENTRY = Written(
    insert(dentries).values(parent=param("parent"), name=param("name"), inode=param("inode")).inline(),
    "parent name inode",
)
ADD_NUMBERED = Written(
    insert(dentries).values(id=param("id"), parent=param("parent"), name=param("name"), inode=param("inode")).inline(),
    "id parent name inode",
)
REMOVE_ENTRY = Written(delete(dentries).where(_THIS_ENTRY), "parent name")
REDIRECT_ENTRY = Written(update(dentries).where(_THIS_ENTRY).values(inode=param("inode")), "parent name inode")
RENAME_ENTRY = Written(update(dentries).where(_THIS_ENTRY).values(name=param("new_name")), "parent name new_name")
ENTRIES = Written(
    select(dentries.c.id, dentries.c.name, *_ROW)
    .select_from(dentries.join(inodes, inodes.c.id == dentries.c.inode))
    .where(dentries.c.parent == param("parent"), dentries.c.id > param("after"))
    .order_by(dentries.c.id)
    .limit(count_param("limit"))
    .offset(_ZERO),
    "parent after limit",
)
ANY_ENTRY = Written(
    select(dentries.c.id).where(dentries.c.parent == param("parent")).limit(_ONE).offset(_ZERO), "parent"
)
NAMES = Written(
    select(dentries.c.parent, dentries.c.name).where(dentries.c.inode == param("inode")).order_by(dentries.c.id),
    "inode",
)
ADD_SYMLINK = Written(insert(symlinks).values(inode=param("inode"), target=param("target")).inline(), "inode target")
SYMLINK = Written(select(symlinks.c.target).where(symlinks.c.inode == param("inode")), "inode")
_THIS_XATTR = (xattrs.c.inode == param("inode")) & (xattrs.c.name == param("name"))
_INSERT_XATTR = upsert(xattrs).values(inode=param("inode"), name=param("name"), value=param("value"))
SET_XATTR = Written(
    _INSERT_XATTR.on_conflict_do_update(index_elements=["inode", "name"], set_={"value": _INSERT_XATTR.excluded.value}),
    "inode name value",
)
GET_XATTR = Written(select(xattrs.c.value).where(_THIS_XATTR), "inode name")
REMOVE_XATTR = Written(delete(xattrs).where(_THIS_XATTR), "inode name")
LIST_XATTRS = Written(select(xattrs.c.name).where(xattrs.c.inode == param("inode")).order_by(xattrs.c.name), "inode")
ANY_XATTR = Written(select(xattrs.c.inode).where(xattrs.c.inode == param("inode")).limit(_ONE).offset(_ZERO), "inode")
