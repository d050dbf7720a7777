# SPDX-License-Identifier: GPL-3.0-or-later
"""cas3fs: a deduplicating, compressed file system that keeps its data on S3."""

__version__ = "0.1.0"
