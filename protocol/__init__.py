"""What processes agree on: records, ids and epochs, KV layout, units, errors. No torch."""
