# SPDX-License-Identifier: GPL-3.0-or-later
"""What the file system holds in memory and on the local disk: inodes, names, layers of unstored data, and staging."""
