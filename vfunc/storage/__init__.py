"""Stored files that are what they claim: digests, seals, a manifest of a folder, and its lock."""
