"""Pictures, an HTML report and a page of documentation from results of benchmarks."""
