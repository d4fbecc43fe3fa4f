"""A medimg backend of another package: `medimg.backend("folder", root=…)`."""

from medimg_folder.backend import FolderBackend

__all__ = ["FolderBackend"]
