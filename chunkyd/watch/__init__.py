"""A file changes: from events and scans to settled changes."""
