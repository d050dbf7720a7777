# SPDX-License-Identifier: GPL-3.0-or-later
"""Fakes, faults, contracts, servers and fixtures for tests of cas3fs, and of programs that build on it.

Vocabulary:

- *fake*: a client of a service that behaves as the real client does, without a network: `FakeS3`, `FakeMemcached`.
- *fault*: a failure that can be switched on and off: of a fake (`faults`), of any object store (`faulty_store`), of the
  local disk under staging and the disk cache (`faulty_disk`), of SQLite (`sqlite_faults`).
- *damage*: a permanent change: to the objects of a store (`store_damage`), or to the pages of a database
  (`sqlite_pages`).
- *random faults*: a command runs while disk, databases and store fail at random (`random_faults`).
- *failpoint*: a named place in cas3fs at which a process can be killed (`failpoints`).
- *contract*: tests for every implementation of an interface, as classes to inherit from (`contracts`).
- *server*: a real server that runs for the length of a ``with`` (`servers`).
- *temporary volume*, *temporary mount*: made with the command line, for one test (`volumes`).

`plugin` has the fixtures, which pytest loads by itself. Nothing but tests imports this subpackage, and importing it
imports nothing. Servers need programs, or packages of the ``dev`` extra.
"""
