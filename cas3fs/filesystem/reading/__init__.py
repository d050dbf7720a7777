# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the bytes of a file: layers over chunks over zeros."""
