"""The parts of sampling: randomness, what changes logits, what cuts the tail."""
