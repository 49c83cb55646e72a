"""The programs: parse, one call, print."""
