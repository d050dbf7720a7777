# SPDX-License-Identifier: GPL-3.0-or-later
"""Epochs: each is one mount's turn as the only writer of a volume.

Vocabulary:

- *claim*: an entry ``epochs/<number>`` with a random uuid. The writer that creates it owns the epoch. Numbers grow.
- *release*: its sub-entry, written when the mount has stored everything. An epoch without a release is *held*.
- *take over*: to claim the next number although the newest epoch is held by another writer.
- *fenced*: a writer is fenced once a later epoch exists; it must not write any more.
- *conditional writes*: the store honours ``If-None-Match: *``, so an object is only created where there is none.
- *overruled*: an epoch that was taken over and never released. Data that its writer stored and did not publish stays
  until a person releases the epoch in that writer's place (`history`).
- *claim file*: a state directory's record of its own claims (`claim_file`).
- *lineage*: the claims of a state directory up to now, with no other writer in between. Local state that belongs to one
  of them is a continuation of the state of the store.
- *handover*: what the release of an epoch states about the store; the next writer looks that up by name.

Invariants:

1. At most one writer owns a number, and a number is never claimed twice.
2. While an epoch is held, only the state directory that holds it can claim the next one, or a writer that takes over. A
   state directory that was copied to another machine (`identity`) holds nothing there.
3. A writer that was taken over finds out when it next calls `Epochs.is_newest`.
4. What is requested from the store does not grow with the number of epochs. A claim carries on what is known of earlier
   ones: which are overruled, which have a base, and which was released last.

Order of writes: the claim file, then the claim. After a crash, or an unclear answer of the store, the uuid in the claim
file shows whether a claim is our own.

Where the store ignores conditions, claims are named ``epochs/<number>-<uuid>``. After creating one, the writer lists
the epochs. If there is any claim that it had not seen before, of whatever number, it withdraws its own, waits for a
random time and tries again. Every writer lists after creating, so of two concurrent writers at least one sees the
other. A withdrawn claim does not count, not even for numbering.

This subpackage knows nothing of snapshots, the index, or mounts. It has no threads: a mount claims and releases once.
"""

from cas3fs.epochs.claiming import ATTEMPTS, Claim, Epochs, Handover
from cas3fs.epochs.epoch_entries import EpochState
from cas3fs.epochs.history import EpochHistory, PastEpoch
from cas3fs.epochs.identity import WriterIdentity

__all__ = ["ATTEMPTS", "Claim", "EpochHistory", "EpochState", "Epochs", "Handover", "PastEpoch", "WriterIdentity"]
