"""Archives from elsewhere, read as if an enemy had written them: tar (also packed by gzip, bzip2 or xz) and zip."""

from medimg.archive.rules import DATA, RESULT, Limits, Readable, leads_elsewhere
from medimg.archive.unpacking import extract, is_archive, unpack

__all__ = ["DATA", "RESULT", "Limits", "Readable", "extract", "is_archive", "leads_elsewhere", "unpack"]
