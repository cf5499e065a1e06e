"""Options that runs of both modalities have: a file a group, and the configuration they make."""
