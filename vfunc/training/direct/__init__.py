"""Arms that another library trains on the feedback itself: TRL's SFT and GRPO."""
