"""A cluster in simulated time: real router and schedulers, workers whose steps only take time."""
