"""Pictures and their labels, from folders and public sets, and their splits."""
