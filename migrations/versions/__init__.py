# SPDX-License-Identifier: GPL-3.0-or-later
"""One module a migration, in the order of their `down_revision`."""
