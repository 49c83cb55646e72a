"""The other end: sessions, chunks, verification, publication."""
