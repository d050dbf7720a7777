# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of cas3fs, and of programs that build on it, need: fakes, faults, contracts, servers, fixtures.

Vocabulary:

- *fake*: a client of a service that behaves as the real client does, without a network: `FakeS3`, `FakeMemcached`.
- *fault*: trouble of a kind that can be switched on for a fake (`cas3fs.testing.faults`), or for any object store
  (`cas3fs.testing.faulty_store`).
- *mishap*: what happens to the objects of a store once, and stays (`cas3fs.testing.store_damage`).
- *faulty disk*: the local disk under staging and the disk cache, failing when it is told to
  (`cas3fs.testing.faulty_disk`).
- *lost write*: a page of a database that is as it was before, or empty, as a disk may give it back
  (`cas3fs.testing.sqlite_pages`).
- *random faults*: a command is run while disk, databases and store fail at random (`cas3fs.testing.random_faults`).
- *contract*: tests that hold of every implementation of an interface, as classes to inherit from
  (`cas3fs.testing.contracts`).
- *server*: a real one on a port of its own, that lives as long as a ``with`` (`cas3fs.testing.servers`,
  `cas3fs.testing.memcached_process`).

The fixtures stand in `cas3fs.testing.plugin`, which pytest loads by itself. The room stands on top of the others:
nothing imports it but tests, and importing it imports nothing. Servers need programs, or packages of the ``dev`` extra.
"""
