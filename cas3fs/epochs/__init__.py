# SPDX-License-Identifier: GPL-3.0-or-later
"""Epochs: one mount's turn as the only writer of a volume.

- *claim*: an entry ``epochs/<number>`` with a random uuid; who creates it is the writer. Numbers only grow.
- *release*: its sub-entry, written when the mount has stored everything. An epoch without one is *held*.
- *claim file*: what a state directory knows of its own claims (`claimfile`). It is written before the entry is, so
  that after a crash or an unclear answer of the store the uuid tells whether a claim is our own.
- *lineage*: the claims of a state directory up to now with no other writer in between: local state that belongs to one
  of them is a continuation of what the store has.
- *handover*: what the release of an epoch says is in the store; the next claim asks for that by name.
- *overruled*: an epoch that was taken over and never released. What its writer put in the store and did not publish
  stays until a person releases it in that writer's place (`history`).

Where the store honours create-if-absent, at most one claim of a number can exist. Where it does not, claims are named
``epochs/<number>-<uuid>``: after creating one, the writer lists, and any claim that was not there when it looked, of
whatever number, makes it withdraw, wait for a random while and try again. As every writer lists after creating, of two
at the same time one at least sees the other. A claim that is withdrawn never was: no number is counted on from it.

An epoch is refused to others while it is held, by anyone but the state directory that holds it, or one that was told
to take over. A state directory that was copied to another machine (`machines`) holds nothing there. Taking over means
to claim the next number: the old writer finds it when it next asks `Epochs.is_newest`.

Numbers grow with every mount, so a claim carries on what was found out of earlier ones: which are overruled, which have
a base, whose release was the last. What is asked of the store does not grow with the number of epochs.

No threads here: claiming and releasing are done once in a mount's life.
"""

from cas3fs.epochs.claiming import ATTEMPTS, Epochs
from cas3fs.epochs.claims import Claim, Handover
from cas3fs.epochs.epoch_entries import EpochState
from cas3fs.epochs.history import EpochHistory, PastEpoch
from cas3fs.epochs.identity import WriterIdentity

__all__ = ["ATTEMPTS", "Claim", "EpochHistory", "EpochState", "Epochs", "Handover", "PastEpoch", "WriterIdentity"]
