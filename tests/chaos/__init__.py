"""Chaos: one seeded plan drives files, kills and network faults; then quiet, and everything must be there."""
