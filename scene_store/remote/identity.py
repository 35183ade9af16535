"""Which version of a remote file it is that we read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What a server says of a file.

    Attributes:
        size: Its length; None if the server does not tell.
        etag: The server's own mark of the version; empty if it has none.
        modified: When it was last changed, in the server's words; empty if it does not tell.
    """

    size: int | None
    etag: str = ""
    modified: str = ""

    @property
    def version(self) -> str | None:
        """A text that changes when the file does; None if nothing tells versions apart."""
        if not self.etag and not self.modified:
            return None
        return f"{self.etag} {self.modified if not self.etag else ''} {self.size}"

    def contradicts(self, other: FileIdentity) -> bool:
        """Whether the two cannot be the same version.

        Servers behind one name may disagree about marks of the same file; if they agree on
        its length and its time, it is taken for the same.
        """
        if self.size is not None and other.size is not None and self.size != other.size:
            return True
        if self.modified and other.modified:
            return self.modified != other.modified
        return bool(self.etag and other.etag) and self.etag != other.etag
