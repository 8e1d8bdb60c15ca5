"""What a model is and where it lies: source, configuration, fingerprint. Imports no torch."""
