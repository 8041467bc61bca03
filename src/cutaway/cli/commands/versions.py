"""`cutaway versions`: show what is installed."""

from __future__ import annotations


def versions() -> None:
    """Show what is installed: put this into a report of a problem."""
    from cutaway.versions import show_versions

    print(show_versions())
