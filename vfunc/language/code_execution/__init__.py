"""Programs that a learner wrote, run contained by the operating system and judged from outside."""
