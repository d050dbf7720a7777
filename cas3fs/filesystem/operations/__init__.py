# SPDX-License-Identifier: GPL-3.0-or-later
"""What programs do: names, contents and attributes, extended attributes."""
