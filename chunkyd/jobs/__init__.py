"""A durable job for each settled change."""
