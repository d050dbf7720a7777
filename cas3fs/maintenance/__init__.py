# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance: frees what nothing names, finds what is wrong and mends it.

Vocabulary
    survey      a complete listing of the volume's objects, and every manifest read; or nothing
    garbage     blocks that no chunk names, packs that hold nothing else, objects that nothing explains
    held        a dead pack that a retained snapshot may still need
    stray       an object that neither the index nor a snapshot knows
    look        reading which packs a snapshot's chunks really need, from its own index
    finding     one thing that is wrong: its code, severity, what it touches, and its repair
    known loss  a pack that a repair has written down as lost: whoever reads from it gets an I/O error

Plans are values: they are made without changing anything, and can be printed. What is executed decides anew, from
what is so at that moment.

It does not know how a volume is opened, of FUSE, or of the control socket; who publishes is handed in (`context`).
"""
