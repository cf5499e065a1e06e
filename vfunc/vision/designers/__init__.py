"""Task designers of vision, which make the views that the learner sees."""
