"""Makes a SQLite file forget the bytes of what was deleted from it.

A deleted row stays in the file until its page is used again, in pages that were split long ago even where deleted
content is overwritten, and in the log. Only rewriting the file (VACUUM) and emptying the log gets rid of all of them.
"""

import sqlite3
from contextlib import closing
from pathlib import Path


def erase_free_space(path: Path, *, patience_s: float, most_bytes: int | None = None) -> str | None:
    """Rewrite a SQLite file without its free space, and empty its log. Nobody can write to it meanwhile.

    Args:
        patience_s: How long to wait for whoever writes, and then for whoever reads.
        most_bytes: Of living content; a file with more is left as it is, for it would be locked too long.

    Returns:
        Why deleted content may still be in it; None where it is not.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=patience_s, isolation_level=None)) as database:
            if most_bytes is not None and (size_bytes := _living_bytes(database)) > most_bytes:
                return f"{size_bytes // 1_000_000} MB in it are still to be shipped"
            database.execute("VACUUM")
            busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as err:
        return str(err)
    return "another process is reading it" if busy else None


def _living_bytes(database: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, page_bytes = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * page_bytes)
