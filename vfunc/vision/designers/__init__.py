"""Task designers of vision: what of each picture the learner gets to see."""
