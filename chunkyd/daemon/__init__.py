"""Composition: watched folders into jobs, jobs into uploads."""
