"""What a repetition is made of: its settings, its estimators' runs, and runs that diverged."""
