# SPDX-License-Identifier: GPL-3.0-or-later
"""How changes become durable: commits on this machine, blocks and chunks in the store, checkpoints."""
