# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance: ``gc/`` deletes what nothing references, ``fsck/`` checks a volume and repairs it.

Vocabulary
    inventory      a complete listing of the volume's objects, compared with the index, and every manifest
    unreferenced   a block that no chunk references, or a pack in which no block is referenced
    born, died     the first snapshot that may need a pack, and the first one that does not need it any more
    dead           a pack that no file uses any more
    held           a dead pack that a retained snapshot may still need
    orphan         an object that neither the index nor a snapshot references
    finding        one thing that is wrong: its code, severity, what it touches, and its repair
    lost           a pack or block that was found missing: reading from it gives an I/O error
    quarantined    a damaged object that a repair has moved to ``damaged/``

A plan is a value: it is made without changing anything, and can be printed. The execution decides each step again, by
the state of that moment.

``gc/`` and ``fsck/`` do not import each other; what both use is at the top of the subpackage. The subpackage does not
know how a volume is opened, nor FUSE, nor the control socket; the publisher of snapshots is passed in (`context`).
"""
