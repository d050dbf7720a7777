# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case behind each verb of the command line, a module for each verb."""
