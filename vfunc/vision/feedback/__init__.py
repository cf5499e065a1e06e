"""Dense feedback: light heads on frozen features, and their losses."""
