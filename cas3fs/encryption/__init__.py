# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption of volumes: keys, and how objects and cached blocks are sealed with them. No I/O.

Vocabulary:

- *secret*: what a person has: a passphrase, a key file, a recovery key, or the right to use a key of AWS KMS
  (`secrets`).
- *root*: 32 random bytes, the only thing that secrets give access to. A *key entry* is the root, sealed with a key that
  was made of one secret; a volume has one for each way to open it (`key_entries`).
- *keyring*: the keys of a volume, sealed with the root: a key for the names of content, and one or more *generations*
  of the key for objects (`keyring`). Rotation adds a generation.
- *sealed*: encrypted and authenticated (AEAD): a changed bit, another key or another place is noticed before a byte is
  believed (`ciphers`). An object is sealed in pieces of 64 KiB (`sealing`), so that ranges of it can be read; a block
  in a cache by itself (`shared_caches`), and on the disk in pieces of 32 KiB (`disk_cache`).

Which bytes are in the store is described in ``docs/format.rst``; what an attacker may and may not learn, and a review
of every nonce and of every comparison of secrets, in ``docs/security.rst``.

The construction differs from a design in which each block, list and segment was sealed by itself: here an object is
sealed as a whole, in pieces of a fixed size. One module knows how, every format inside stays what it is without
encryption, and requests for a part of an object are aligned to the grid of pieces by necessity.

`cryptography` is imported where a key is first used: it takes 15 to 30 ms.
"""
