"""Finds and removes texts of a stream that hold a test example, or nearly."""
