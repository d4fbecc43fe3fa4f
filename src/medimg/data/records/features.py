"""What the features of a record are called that we write; the usual names where there are any."""

from __future__ import annotations

__all__ = ["COLUMN", "GROUP", "ID", "IMAGE", "LABELS", "LABEL_NAMES", "NUMBER", "POSITIVE", "SPLIT", "TEXT"]

IMAGE, ID, GROUP, SPLIT = "image/encoded", "image/id", "image/group", "image/split"
TEXT, NUMBER, POSITIVE = "image/class/text", "image/class/label", "image/class/positive"
LABELS, LABEL_NAMES = "image/labels/value", "image/labels/text"
COLUMN = "image/column/"  # and the column's name
