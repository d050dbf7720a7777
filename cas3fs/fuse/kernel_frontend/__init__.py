# SPDX-License-Identifier: GPL-3.0-or-later
"""The front-end on the kernel's own protocol, by `cas3fs.fuse.kernel`: no library is between."""
