"""What routing costs, and later how well it decides."""
