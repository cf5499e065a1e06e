"""What a forward of a language learner leaves out: frozen blocks, logits that nobody asks for."""
