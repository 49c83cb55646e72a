"""The job table and the queue."""
