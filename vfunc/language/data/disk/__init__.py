"""Streams of any size: read as they come, tokenised once, kept in files a segment."""
